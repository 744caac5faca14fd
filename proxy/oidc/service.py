"""The API keys of people who sign in at an OpenID provider. A person's key has an id that follows
from issuer and subject. Nobody knows its secret until an administrator regenerates it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from ..accounts.records import StoredKey
from ..errors import BadRequest, Forbidden, NotFound
from ..store.accounts import Accounts
from .provider import Provider
from .started import Started

# Which user of the gateway the claims of an OpenID provider mean. Pure.
MOST_GROUPS = 200  # teams of a claim that are looked at
LONGEST = 255  # characters of a user's or team's id

Claims = Mapping[str, Any]


class Wanted(Struct, frozen=True):
    """A value that a claim must have, or one of its values if it is a list."""

    claim: str
    value: str


class Mapped(Struct, frozen=True, kw_only=True):
    """What the settings say of claims. `user` names the claim with the user's id, `teams` that with
    ids of teams. Who has one of `admins` administers; who has none of `allowed` may not sign in."""

    user: str
    teams: str = ""
    admins: tuple[Wanted, ...] = ()
    allowed: tuple[Wanted, ...] = ()


class Person(Struct, frozen=True, kw_only=True):
    """Who has signed in, with the id of the API key. `admin` None: claims do not decide it."""

    key_id: str
    subject: str
    user: str
    teams: Sequence[str] = ()
    admin: bool | None = None


def person(issuer: str, claims: Claims, mapped: Mapped) -> Person:
    """Raises Forbidden if the person may not sign in."""
    subject = str(claims["sub"])
    # Whoever may choose an address could be anybody. Some providers write the claim as a string.
    verified = claims.get("email_verified") in (True, "true")
    if not verified:
        claims = {name: value for name, value in claims.items() if name != "email"}
    if mapped.allowed and not any(has(claims, one) for one in mapped.allowed):
        raise Forbidden(
            "your account may not use this gateway: ask an administrator for access",
            code="sign_in_forbidden",
        )
    user = claim(claims, mapped.user)
    if mapped.user == "email" and not verified:
        raise Forbidden(
            "the provider does not say that your e-mail address is verified: ask an administrator"
            " to verify it there, or to set another user_claim of [oidc]",
            code="sign_in_forbidden",
        )
    if not isinstance(user, str) or not 0 < len(user) <= LONGEST or not user.isprintable():
        raise Forbidden(
            f"the sign-in gives no usable {mapped.user[:60]!r}: ask an administrator to correct"
            " user_claim of [oidc], or your account at the provider",
            code="sign_in_forbidden",
        )
    teams = claim(claims, mapped.teams) if mapped.teams else None
    material = f"{len(issuer)} {issuer} {subject}".encode()
    digest = blake2b(material, digest_size=12, person=b"oidc subject")
    return Person(
        key_id=f"key_{digest.hexdigest()}",
        subject=subject,
        user=user,
        teams=[one for one in _values(teams) if isinstance(one, str) and 0 < len(one) <= LONGEST],
        admin=any(has(claims, one) for one in mapped.admins) if mapped.admins else None,
    )


def claim(claims: Claims, name: str) -> Any:
    """The claim of this name; of `a.b`, the b of the object a."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def has(claims: Claims, wanted: Wanted) -> bool:
    values = _values(claim(claims, wanted.claim))
    texts = (str(value).lower() if isinstance(value, bool) else str(value) for value in values)
    return wanted.value in texts


def _values(value: Any) -> Sequence[Any]:
    """The values of a claim: a list, or a single one."""
    if value is None:
        return ()
    return value[:MOST_GROUPS] if isinstance(value, list) else (value,)


ACTOR = "oidc"  # in the record of changes


class SignIn(NamedTuple):
    """Sign-in at a provider, whose `name` is for people; `redirect_uri` "" is the own address."""

    provider: Provider
    mapped: Mapped
    accounts: Accounts
    name: str
    redirect_uri: str = ""

    def finish(self, code: str, started: Started, redirect_uri: str) -> str:
        """The id of the key of the person who brings this code."""
        claims = self.provider.claims(code, started, redirect_uri)
        found = person(self.provider.issuer, claims, self.mapped)
        enter(self.accounts, found, self.provider.issuer, follows_team=bool(self.mapped.teams))
        self.accounts.follow()
        return found.key_id


def enter(accounts: Accounts, found: Person, issuer: str, *, follows_team: bool) -> None:
    """Make the person's key, or change what the claims say now. Raises StoreUnavailable."""
    changes: dict[str, Any] = {"user_id": found.user}
    if follows_team:
        changes["team_id"] = _first_known(accounts, found)

    def edit(key: StoredKey) -> StoredKey:
        admin = key.rights.admin if found.admin is None else found.admin
        return replace(key, **changes, rights=replace(key.rights, admin=admin))

    try:
        known = accounts.keys.read(found.key_id)
    except NotFound:
        alias: str | None = found.user
        try:
            accounts.keys.check_alias(found.user)
        except BadRequest:  # another key has it
            alias = None
        subject = {"issuer": issuer, "subject": found.subject}
        metadata = {"oidc": subject}
        new = StoredKey(id=found.key_id, digest="", shown="", alias=alias, metadata=metadata)
        try:
            accounts.keys.make(edit(new), ACTOR)
            return
        except BadRequest:  # a second sign-in at the same time was first
            known = accounts.keys.read(found.key_id)
    if edit(known) != known:
        accounts.keys.change(found.key_id, edit, ACTOR)


def _first_known(accounts: Accounts, found: Person) -> str | None:
    for team in found.teams:
        with suppress(NotFound):
            return accounts.teams.read(team).id
    return None
