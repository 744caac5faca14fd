"""The API keys of people who sign in at an OpenID provider.

A person has a key of the store whose id follows from issuer and subject, so that rights, limits,
blocking, the ledger and stored data work as with other keys. Nobody knows its secret; an
administrator may regenerate it to give the person an API key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from msgspec.structs import replace

from ..accounts.records import StoredKey
from ..accounts.service import Accounts
from ..errors import BadRequest, NotFound
from .people import Mapped, Person, person
from .provider import Provider
from .started import Started

ACTOR = "oidc"  # in the record of changes


class SignIn(NamedTuple):
    """Sign-in at a provider. `name` is the provider's for people; `redirect_uri` is where it sends
    them back, "" for the gateway's own address."""

    provider: Provider
    mapped: Mapped
    accounts: Accounts
    name: str
    redirect_uri: str = ""

    def finish(self, code: str, started: Started, redirect_uri: str) -> str:
        """The id of the key of the person who brings this code. Raises Unauthorized, Forbidden,
        UpstreamFault, UpstreamTimeout and StoreUnavailable."""
        claims = self.provider.claims(code, started, redirect_uri)
        found = person(self.provider.issuer, claims, self.mapped)
        enter(self.accounts, found, self.provider.issuer, follows_team=bool(self.mapped.teams))
        return found.key_id


def enter(accounts: Accounts, found: Person, issuer: str, *, follows_team: bool) -> None:
    """Make the person's key, or change what the claims say now. Raises StoreUnavailable."""
    changes: dict[str, Any] = {"user_id": found.user}
    if follows_team:
        changes["team_id"] = _first_known(accounts, found)
    edit = _edit(changes, found.admin)
    try:
        known = accounts.keys.read(found.key_id)
    except NotFound:
        new = StoredKey(
            id=found.key_id,
            digest="",
            shown="",
            alias=_free_alias(accounts, found.user),
            metadata={"oidc": {"issuer": issuer, "subject": found.subject}},
        )
        try:
            accounts.keys.make(edit(new), ACTOR)
            return
        except BadRequest:  # a second sign-in at the same time was first
            known = accounts.keys.read(found.key_id)
    if edit(known) != known:
        accounts.keys.change(found.key_id, edit, ACTOR)


def _edit(changes: Mapping[str, Any], admin: bool | None) -> Callable[[StoredKey], StoredKey]:
    def edit(key: StoredKey) -> StoredKey:
        rights = key.rights if admin is None else replace(key.rights, admin=admin)
        return replace(key, **changes, rights=rights)

    return edit


def _first_known(accounts: Accounts, found: Person) -> str | None:
    for team in found.teams:
        try:
            return accounts.teams.store.read(team).id
        except NotFound:
            continue
    return None


def _free_alias(accounts: Accounts, user: str) -> str | None:
    """The user's name, unless another key has it."""
    try:
        accounts.keys.check_alias(user)
    except BadRequest:
        return None
    return user
