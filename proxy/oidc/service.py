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
from ..config import OidcConfig
from ..errors import BadRequest, Forbidden, NotFound
from ..store.accounts import Accounts
from . import Started
from .provider import Provider

# Which user of the gateway the claims of an OpenID provider mean. Pure.
MOST_GROUPS = 200  # teams of a claim that are looked at
LONGEST = 255  # characters of a user's or team's id

Claims = Mapping[str, Any]


class Person(Struct, frozen=True, kw_only=True):
    """Who has signed in, with the id of the API key. `admin` None: claims do not decide it."""

    key_id: str
    subject: str
    user: str
    teams: Sequence[str] = ()
    admin: bool | None = None


def person(issuer: str, claims: Claims, rules: OidcConfig) -> Person:
    """Raises Forbidden if the person may not sign in."""
    subject = str(claims["sub"])
    # Whoever may choose an address could be anybody. Some providers write the claim as a string.
    verified = claims.get("email_verified") in (True, "true")
    if not verified:
        claims = {name: value for name, value in claims.items() if name != "email"}
    if rules.allow and not any(has(claims, rule) for rule in rules.allow):
        raise Forbidden(
            "your account may not use this gateway: ask an administrator for access",
            code="sign_in_forbidden",
        )
    user = claim(claims, rules.user_claim)
    if rules.user_claim == "email" and not verified:
        raise Forbidden(
            "the provider does not say that your e-mail address is verified: ask an administrator"
            " to verify it there, or to set another user_claim of [oidc]",
            code="sign_in_forbidden",
        )
    if not isinstance(user, str) or not 0 < len(user) <= LONGEST or not user.isprintable():
        raise Forbidden(
            f"the sign-in gives no usable {rules.user_claim[:60]!r}: ask an administrator to"
            " correct user_claim of [oidc], or your account at the provider",
            code="sign_in_forbidden",
        )
    teams = claim(claims, rules.team_claim) if rules.team_claim else None
    material = f"{len(issuer)} {issuer} {subject}".encode()
    digest = blake2b(material, digest_size=12, person=b"oidc subject")
    return Person(
        key_id=f"key_{digest.hexdigest()}",
        subject=subject,
        user=user,
        teams=[
            team for team in _values(teams) if isinstance(team, str) and 0 < len(team) <= LONGEST
        ],
        admin=any(has(claims, rule) for rule in rules.admins) if rules.admins else None,
    )


def claim(claims: Claims, name: str) -> Any:
    """The claim of this name; of `a.b`, the b of the object a."""
    if name in claims:
        return claims[name]
    value: Any = claims
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def has(claims: Claims, rule: str) -> bool:
    """Whether a claim is as CLAIM=VALUE says, or one of its values if it is a list."""
    name, _, text = rule.partition("=")
    values = _values(claim(claims, name))
    texts = (str(value).lower() if isinstance(value, bool) else str(value) for value in values)
    return text in texts


def _values(value: Any) -> Sequence[Any]:
    """The values of a claim: a list, or a single one."""
    if value is None:
        return ()
    return value[:MOST_GROUPS] if isinstance(value, list) else (value,)


ACTOR = "oidc"  # in the record of changes


class SignIn(NamedTuple):
    """Sign-in at a provider, whose `name` is for people."""

    provider: Provider
    rules: OidcConfig
    accounts: Accounts
    name: str

    def finish(self, code: str, started: Started, redirect_uri: str) -> str:
        """The id of the key of the person who brings this code."""
        claims = self.provider.claims(code, started, redirect_uri)
        issuer = self.rules.issuer
        who = person(issuer, claims, self.rules)
        enter(self.accounts, who, issuer, follows_team=bool(self.rules.team_claim))
        self.accounts.follow()
        return who.key_id


def enter(accounts: Accounts, who: Person, issuer: str, *, follows_team: bool) -> None:
    """Make the person's key, or change what the claims say now. Raises StoreUnavailable."""
    changes: dict[str, Any] = {"user_id": who.user}
    if follows_team:
        changes["team_id"] = _first_known(accounts, who)

    def edit(key: StoredKey) -> StoredKey:
        admin = key.rights.admin if who.admin is None else who.admin
        return replace(key, **changes, rights=replace(key.rights, admin=admin))

    try:
        stored = accounts.keys.read(who.key_id)
    except NotFound:
        alias: str | None = who.user
        try:
            accounts.keys.check_alias(who.user)
        except BadRequest:  # another key has it
            alias = None
        subject = {"issuer": issuer, "subject": who.subject}
        metadata = {"oidc": subject}
        new = StoredKey(id=who.key_id, digest="", shown="", alias=alias, metadata=metadata)
        try:
            accounts.keys.make(edit(new), ACTOR)
            return
        except BadRequest:  # a second sign-in at the same time was first
            stored = accounts.keys.read(who.key_id)
    if edit(stored) != stored:
        accounts.keys.change(who.key_id, edit, ACTOR)


def _first_known(accounts: Accounts, who: Person) -> str | None:
    for team in who.teams:
        with suppress(NotFound):
            return accounts.teams.read(team).id
    return None
