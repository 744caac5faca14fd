"""Makes the sign-in at an OpenID provider, as the settings have it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..accounts.service import Accounts
from ..config import Settings, SettingsError
from ..oidc.people import Mapped, Wanted
from ..websearch.fetch import fetch

if TYPE_CHECKING:
    from ..oidc.service import SignIn  # imports authlib, an extra


def of(settings: Settings, accounts: Accounts | None) -> SignIn | None:
    """Raises SettingsError."""
    if not settings.oidc.issuer:
        return None
    if accounts is None:
        raise SettingsError("[oidc] requires pip install slotproxy[knowledge]")
    try:
        from ..oidc.provider import Client, Provider
        from ..oidc.service import SignIn
    except ImportError:
        raise SettingsError("[oidc] requires pip install slotproxy[oidc]") from None
    client = Client(
        issuer=settings.oidc.issuer,
        id=settings.oidc.client_id,
        secret=settings.oidc.client_secret,
        scopes=settings.oidc.scopes,
    )
    return SignIn(
        Provider(client, partial(fetch, open_only=False)),
        Mapped(
            user=settings.oidc.user_claim,
            teams=settings.oidc.team_claim,
            admins=tuple(Wanted(*one.split("=", 1)) for one in settings.oidc.admins),
            allowed=tuple(Wanted(*one.split("=", 1)) for one in settings.oidc.allow),
        ),
        accounts,
        settings.oidc.name or urlsplit(settings.oidc.issuer).hostname or "",
        settings.oidc.redirect_url,
    )
