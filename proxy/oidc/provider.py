"""An OpenID provider: its metadata, its keys and the claims of who has signed in.

What it sends is bounded in bytes and time, and redirects are not followed. Metadata and keys are
asked again after an hour; keys also when a token names an unknown one, at most once a minute.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from authlib.common.errors import AuthlibBaseError
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from msgspec import Struct

from ..config import OidcConfig
from ..errors import GatewayError, Unauthorized, UpstreamFault
from ..websearch.fetch import EngineRequest, WebPage
from . import Started

SECONDS = 10.0  # that one answer of the provider may take
LARGEST = 256 << 10  # bytes of an answer
LASTS = 3600.0  # seconds until metadata and keys are asked again
AT_LEAST = 60.0  # seconds between two questions for keys
AGAIN = 5.0  # seconds until a provider that does not answer is asked again
LEEWAY = 60  # seconds by which clocks may differ
LONGEST_CODE = 4096  # characters of an authorization code
# Signatures with a public key. Never "none", nor HMAC with a secret that the client knows.
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]
ALGORITHMS += ["Ed25519", "EdDSA"]
_FORM = "application/x-www-form-urlencoded"

Fetch = Callable[[EngineRequest, float], WebPage]
T = TypeVar("T")


class _Metadata(Struct, frozen=True):
    """Of OpenID Connect Discovery 1.0, section 3."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)


class _Tokens(Struct, frozen=True):
    """Of the token endpoint; the access token reads the other claims."""

    id_token: str
    access_token: str = ""


class Provider:
    """`fetch` sends a request without following redirects."""

    def __init__(
        self, client: OidcConfig, fetch: Fetch, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._fetch = fetch
        self._clock = clock
        self._metadata: _Kept[_Metadata] = _Kept(clock)
        self._keys: _Kept[KeySet] = _Kept(clock)

    def authorization_url(self, started: Started, redirect_uri: str) -> str:
        uri: str = prepare_grant_uri(
            self._known().authorization_endpoint,
            self._client.client_id,
            "code",
            redirect_uri=redirect_uri,
            scope=self._client.scopes,
            state=started.state,
            nonce=started.nonce,
            code_challenge=create_s256_code_challenge(started.verifier),
            code_challenge_method="S256",
        )
        return uri

    def claims(self, code: str, started: Started, redirect_uri: str) -> dict[str, Any]:
        """The checked claims of the person who brings this code. Raises Unauthorized."""
        if len(code) > LONGEST_CODE:
            raise Unauthorized("the sign-in was refused by the provider")
        tokens = self._exchange(code, started, redirect_uri)
        claims = self._checked(tokens.id_token, started.nonce)
        endpoint = self._known().userinfo_endpoint
        if endpoint and tokens.access_token:
            claims = _merged(self._userinfo(endpoint, tokens.access_token, claims["sub"]), claims)
        return claims

    def _exchange(self, code: str, started: Started, redirect_uri: str) -> _Tokens:
        metadata = self._known()
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri}
        body = urlencode({**form, "code_verifier": started.verifier})
        # RFC 6749, section 2.3.1: both parts of the header are encoded as in a form.
        name, secret = self._client.client_id, str(self._client.client_secret)
        supported = metadata.token_endpoint_auth_methods_supported
        method = "client_secret_basic"
        if not secret:
            method = "none"
        elif method not in supported and "client_secret_post" in supported:
            method = "client_secret_post"
        else:
            name, secret = quote(name, safe=""), quote(secret, safe="")
        headers = {"Content-Type": _FORM, "Accept": "application/json"}
        auth = ClientAuth(name, secret, method)
        uri, headers, body = auth.prepare("POST", metadata.token_endpoint, headers, body)
        page = self._fetch(EngineRequest(uri, headers, body.encode()), SECONDS)
        if page.status in (400, 401):
            raise Unauthorized(
                "the sign-in was refused by the provider: begin it again",
                detail=f"the token endpoint answered {page.status}: {page.data[:300]!r}",
            )
        tokens: _Tokens = _decoded(page, _Tokens)
        return tokens

    def _checked(self, token: str, nonce: str) -> dict[str, Any]:
        """The claims of a valid ID token of this sign-in. Raises Unauthorized."""
        try:
            try:
                decoded = jwt.decode(token, self._key_set(), algorithms=ALGORITHMS)
            except (JoseError, ValueError):  # perhaps by a new key
                decoded = jwt.decode(token, self._key_set(fresh=True), algorithms=ALGORITHMS)
            options = {
                "iss": {"essential": True, "value": self._client.issuer},
                "aud": {"essential": True, "value": self._client.client_id},
                "sub": {"essential": True},
                "nonce": {"essential": True, "value": nonce},
            }
            params = {"nonce": nonce, "client_id": self._client.client_id}
            claims = CodeIDToken(decoded.claims, decoded.header, options, params)
            claims.validate(leeway=LEEWAY)
        except (JoseError, AuthlibBaseError, ValueError, TypeError) as error:
            raise Unauthorized(
                "the provider's token is not valid: begin the sign-in again",
                detail=f"ID token: {error}",
            ) from None
        return dict(claims)

    def _userinfo(self, endpoint: str, token: str, subject: str) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        page = self._fetch(EngineRequest(endpoint, headers), SECONDS)
        claims: dict[str, Any] = _decoded(page, dict[str, Any])
        if claims.get("sub") != subject:
            raise Unauthorized(
                "the provider's answers contradict each other: begin the sign-in again",
                detail="the subject of userinfo is not that of the ID token",
            )
        return claims

    def _known(self) -> _Metadata:
        """Raises UpstreamFault and UpstreamTimeout."""
        return self._metadata.get(self._fetched_metadata, LASTS)

    def _fetched_metadata(self) -> _Metadata:
        """Raises UpstreamFault also for metadata of another issuer, or with insecure addresses."""
        url = f"{self._client.issuer.rstrip('/')}/.well-known/openid-configuration"
        metadata: _Metadata = _decoded(self._fetch(EngineRequest(url), SECONDS), _Metadata)
        if metadata.issuer != self._client.issuer:
            raise UpstreamFault(
                "the sign-in provider has another name than issuer of [oidc]: correct the setting",
                detail=f"its metadata names {metadata.issuer[:200]!r}",
            )
        addresses = (
            metadata.authorization_endpoint,
            metadata.token_endpoint,
            metadata.jwks_uri,
            metadata.userinfo_endpoint,
        )
        for address in filter(None, addresses):
            if urlsplit(address).scheme not in ("https", urlsplit(metadata.issuer).scheme):
                raise UpstreamFault(
                    "the sign-in provider has an address without https", detail=address[:200]
                )
        return metadata

    def _key_set(self, fresh: bool = False) -> KeySet:
        metadata = self._known()
        return self._keys.get(lambda: self._fetched_keys(metadata), AT_LEAST if fresh else LASTS)

    def _fetched_keys(self, metadata: _Metadata) -> KeySet:
        page = self._fetch(EngineRequest(metadata.jwks_uri), SECONDS)
        try:
            return KeySet.import_key_set(_decoded(page, dict[str, Any]))
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise UpstreamFault(
                "the sign-in provider sent invalid keys", detail=repr(error)
            ) from None


class _Kept(Generic[T]):
    """An answer of the provider that is kept for a while, under a lock of its own."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._answer: tuple[float, T] | None = None
        self._failed: tuple[float, GatewayError] | None = None

    def get(self, ask: Callable[[], T], lasts: float) -> T:
        """The answer, asked again after `lasts` seconds. A failure is kept for a moment."""
        with self._lock:
            if self._answer is None or self._clock() - self._answer[0] >= lasts:
                if self._failed is not None and self._clock() - self._failed[0] < AGAIN:
                    raise self._failed[1].with_traceback(None)
                try:
                    self._answer = self._clock(), ask()
                except GatewayError as fault:
                    self._failed = self._clock(), fault
                    raise
            return self._answer[1]


def _merged(userinfo: Mapping[str, Any], token: Mapping[str, Any]) -> dict[str, Any]:
    """The claims of both. Whether the address is verified says a place that has this address."""
    merged = {**userinfo, **token}
    places = [claims for claims in (token, userinfo) if claims.get("email") == merged.get("email")]
    verified = [claims["email_verified"] for claims in places if "email_verified" in claims]
    return {**merged, "email_verified": verified[0] if verified else None}


def _decoded(page: WebPage, kind: type[Any]) -> Any:
    """Raises UpstreamFault."""
    problem = f"status {page.status}, {len(page.data)} bytes"
    if page.status == 200 and len(page.data) <= LARGEST:
        try:
            return msgspec.json.decode(page.data, type=kind)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            problem = str(error)
    raise UpstreamFault(
        "the sign-in provider does not answer as it should: try again later",
        detail=f"{page.url}: {problem}",
    )
