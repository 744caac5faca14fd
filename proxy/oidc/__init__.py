"""Sign-in at an OpenID provider: the authorization code flow with PKCE, state and nonce. This
module needs no other package, so a gateway without a provider imports it."""

from __future__ import annotations

from secrets import token_urlsafe

from msgspec import Struct


class Started(Struct, frozen=True):
    """A sign-in that has begun: what the browser keeps until it returns from the provider. `to` is
    the page to open then."""

    state: str
    nonce: str
    verifier: str
    to: str


def start(to: str) -> Started:
    return Started(token_urlsafe(24), token_urlsafe(24), token_urlsafe(48), to)
