"""The checks of a provider's metadata, keys and tokens."""

from __future__ import annotations

import threading
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from proxy.config import OidcConfig, Secret
from proxy.errors import Forbidden, Unauthorized, UpstreamFault
from proxy.oidc import Started
from proxy.oidc import provider as module
from proxy.oidc.provider import LARGEST, Provider
from proxy.oidc.service import person
from proxy.websearch.fetch import EngineRequest, WebPage

ISSUER = "https://id.example.org"
BACK = "https://gateway.example.org/signin/oidc/callback"
STARTED = Started("a state", "a nonce", "v" * 64, "/status")
KEY = RSAKey.generate_key(2048, {"kid": "1"})
OTHER = RSAKey.generate_key(2048, {"kid": "2"})


class Site:
    """Answers as a provider; `requests` are those that came."""

    def __init__(self) -> None:
        self.requests: list[EngineRequest] = []
        self.now = 0.0
        self.keys = [KEY]
        self.signing: Any = KEY
        self.header: dict[str, Any] = {"alg": "RS256", "kid": "1"}
        self.claims: dict[str, Any] = {
            "iss": ISSUER,
            "sub": "1",
            "aud": "us",
            "nonce": STARTED.nonce,
            "iat": int(time.time()),
            "exp": int(time.time()) + 300,
        }
        self.answers: dict[str, Any] = {
            "/.well-known/openid-configuration": {
                "issuer": ISSUER,
                "authorization_endpoint": f"{ISSUER}/auth?tenant=1",
                "token_endpoint": f"{ISSUER}/token",
                "jwks_uri": f"{ISSUER}/jwks",
                "userinfo_endpoint": f"{ISSUER}/me",
            },
            "/me": {"sub": "1", "email": "carol@example.org", "iss": "made up"},
        }
        client = OidcConfig(
            issuer=ISSUER, client_id="us", client_secret=Secret("s p%"), scopes="openid"
        )
        self.provider = Provider(client, self.fetch, lambda: self.now)

    @property
    def metadata(self) -> dict[str, Any]:
        metadata: dict[str, Any] = self.answers["/.well-known/openid-configuration"]
        return metadata

    def fetch(self, request: EngineRequest, seconds: float) -> WebPage:
        assert seconds == module.SECONDS
        self.requests.append(request)
        path = urlsplit(request.url).path
        answer = self.answers.get(path)
        if path == "/jwks" and answer is None:
            answer = {"keys": [key.as_dict(private=False) for key in self.keys]}
        if path == "/token" and answer is None:
            token = jwt.encode(
                self.header, self.claims, self.signing, algorithms=["RS256", "HS256"]
            )
            answer = {"id_token": token, "access_token": "reads", "token_type": "Bearer"}
        if isinstance(answer, WebPage):
            return answer
        return WebPage(200, msgspec.json.encode(answer), request.url)

    def sign_in(self) -> dict[str, Any]:
        return self.provider.claims("code", STARTED, BACK)

    def count(self, path: str) -> int:
        return sum(urlsplit(request.url).path == path for request in self.requests)


@pytest.fixture
def site() -> Site:
    return Site()


def page(status: int, data: bytes) -> WebPage:
    return WebPage(status, data, ISSUER)


def test_browser_is_sent_with_state_nonce_and_challenge(site: Site) -> None:
    parts = urlsplit(site.provider.authorization_url(STARTED, BACK))
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    assert parts.geturl().startswith(f"{ISSUER}/auth?tenant=1&")
    challenge = query.pop("code_challenge")
    assert len(challenge) == 43 and STARTED.verifier not in parts.query
    assert query == {
        "tenant": "1",
        "response_type": "code",
        "client_id": "us",
        "redirect_uri": BACK,
        "scope": "openid",
        "state": STARTED.state,
        "nonce": STARTED.nonce,
        "code_challenge_method": "S256",
    }


def test_claims_of_the_token_count_more_than_those_of_userinfo(site: Site) -> None:
    claims = site.sign_in()
    assert (claims["iss"], claims["email"]) == (ISSUER, "carol@example.org")
    (exchange,) = [request for request in site.requests if request.body]
    assert exchange.headers["Authorization"] == "Basic dXM6cyUyMHAlMjU="  # us:s%20p%25
    form = parse_qs((exchange.body or b"").decode())
    assert form["code_verifier"] == [STARTED.verifier]
    assert form["redirect_uri"] == [BACK]


MINE, OTHERS = "carol@example.org", "admin@example.org"


@pytest.mark.parametrize(
    ("token", "userinfo", "verified"),
    [
        ({"email": OTHERS}, {"email": MINE, "email_verified": True}, ()),
        ({"email": OTHERS, "email_verified": False}, {"email": MINE, "email_verified": True}, ()),
        ({"email_verified": True}, {"email": OTHERS}, ()),
        ({"email_verified": True}, {"email": OTHERS, "email_verified": False}, ()),
        ({"email": MINE, "email_verified": True}, {"email": OTHERS}, (MINE,)),
        ({"email": MINE, "email_verified": True}, {}, (MINE,)),
        ({}, {"email": MINE, "email_verified": True}, (MINE,)),
        ({"email": MINE}, {"email": MINE, "email_verified": True}, (MINE,)),
    ],
)
def test_only_the_address_counts_as_verified_of_which_the_provider_says_so(
    site: Site, token: dict[str, Any], userinfo: dict[str, Any], verified: tuple[str, ...]
) -> None:
    site.claims |= token
    site.answers["/me"] = {"sub": "1", **userinfo}
    claims, mapped = site.sign_in(), OidcConfig()
    if verified:
        assert (person(ISSUER, claims, mapped).user,) == verified
        return
    with pytest.raises(Forbidden, match="address is verified"):
        person(ISSUER, claims, mapped)


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": "https://other.example.org"},
        {"aud": "another"},
        {"aud": ["us", "another"]},  # without azp
        {"azp": "another"},
        {"nonce": "another"},
        {"nonce": None},
        {"exp": 1_000_000},
        {"exp": None},
        {"iat": 4_000_000_000},
        {"sub": None},
    ],
    ids=str,
)
def test_token_with_wrong_claims_is_refused(site: Site, wrong: dict[str, Any]) -> None:
    claims = {**site.claims, **wrong}
    site.claims = {name: value for name, value in claims.items() if value is not None}
    with pytest.raises(Unauthorized, match="token is not valid"):
        site.sign_in()


def test_token_signed_by_another_key_is_refused(site: Site) -> None:
    site.signing = OTHER
    with pytest.raises(Unauthorized):
        site.sign_in()


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_token_without_a_signature_of_the_provider_is_refused(site: Site, algorithm: str) -> None:
    if algorithm == "HS256":
        site.header = {"alg": "HS256", "kid": "1"}
        site.signing = OctKey.import_key("s p%" * 8)  # the secret, which the client has too
    else:
        body = jwt.encode({"alg": "RS256"}, site.claims, KEY).split(".")[1]
        site.answers["/token"] = {"id_token": f"eyJhbGciOiJub25lIn0.{body}."}
    with pytest.raises(Unauthorized):
        site.sign_in()


def test_new_key_is_asked_for_but_not_more_than_once_in_a_minute(site: Site) -> None:
    site.sign_in()
    assert site.count("/jwks") == 1
    site.keys, site.signing, site.header = [OTHER], OTHER, {"alg": "RS256", "kid": "2"}
    with pytest.raises(Unauthorized):
        site.sign_in()
    assert site.count("/jwks") == 1
    site.now += module.AT_LEAST
    assert site.sign_in()["sub"] == "1"
    assert site.count("/jwks") == 2


def test_metadata_are_kept_for_an_hour(site: Site) -> None:
    for _ in range(3):
        site.provider.authorization_url(STARTED, BACK)
    assert site.count("/.well-known/openid-configuration") == 1
    site.now += module.LASTS + 1
    site.provider.authorization_url(STARTED, BACK)
    assert site.count("/.well-known/openid-configuration") == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("issuer", "https://other.example.org"),
        ("issuer", ISSUER + "/"),
        ("token_endpoint", "http://id.example.org/token"),
        ("jwks_uri", "file:///etc/passwd"),
        ("authorization_endpoint", "javascript:alert(1)"),
        ("token_endpoint", None),
        ("jwks_uri", 7),
    ],
)
def test_metadata_of_another_issuer_or_without_https_are_refused(
    site: Site, field: str, value: Any
) -> None:
    site.metadata[field] = value
    with pytest.raises(UpstreamFault):
        site.provider.authorization_url(STARTED, BACK)


@pytest.mark.parametrize(
    "answer",
    [
        page(500, b"{}"),
        page(302, b""),
        page(200, b"not json"),
        page(200, b"[" * 100_000),
        page(200, b'{"id_token": "' + b"x" * LARGEST + b'"}'),
    ],
    ids=["error", "redirect", "text", "deep", "large"],
)
@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/token", "/me"])
def test_answers_of_a_provider_are_bounded_and_checked(
    site: Site, path: str, answer: WebPage
) -> None:
    site.answers[path] = answer
    with pytest.raises(UpstreamFault):
        site.sign_in()


def test_subject_of_userinfo_must_be_that_of_the_token(site: Site) -> None:
    site.answers["/me"]["sub"] = "2"
    with pytest.raises(Unauthorized, match="contradict"):
        site.sign_in()


def test_refused_or_too_long_codes_are_unauthorized(site: Site) -> None:
    site.answers["/token"] = page(400, b'{"error": "invalid_grant"}')
    with pytest.raises(Unauthorized, match="refused"):
        site.sign_in()
    before = len(site.requests)
    with pytest.raises(Unauthorized):
        site.provider.claims("x" * (module.LONGEST_CODE + 1), STARTED, BACK)
    assert len(site.requests) == before


def test_public_client_sends_no_secret(site: Site) -> None:
    site.provider = Provider(OidcConfig(issuer=ISSUER, client_id="us"), site.fetch)
    site.sign_in()
    (exchange,) = [request for request in site.requests if request.body]
    assert "Authorization" not in exchange.headers
    assert b"client_id=us" in (exchange.body or b"")


@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/jwks"])
def test_what_fails_is_not_asked_for_by_every_sign_in(site: Site, path: str) -> None:
    good, site.answers[path] = site.answers.get(path), page(503, b"")
    for _ in range(3):
        with pytest.raises(UpstreamFault):
            site.sign_in()
    assert site.count(path) == 1
    site.answers[path] = good
    site.now += module.AGAIN
    assert site.sign_in()["sub"] == "1"


def test_sign_ins_begin_while_keys_are_fetched(site: Site) -> None:
    is_asked, go_on = threading.Event(), threading.Event()
    fetch = site.provider._fetch

    def slow(request: EngineRequest, seconds: float) -> WebPage:
        if request.url.endswith("/jwks"):
            is_asked.set()
            assert go_on.wait(60)
        return fetch(request, seconds)

    site.provider._fetch = slow
    ending = threading.Thread(target=site.sign_in, daemon=True)
    beginning = threading.Thread(
        target=lambda: site.provider.authorization_url(STARTED, BACK), daemon=True
    )
    ending.start()
    assert is_asked.wait(60)
    beginning.start()
    beginning.join(30)
    waits = beginning.is_alive()
    go_on.set()
    ending.join(60)
    assert not waits
