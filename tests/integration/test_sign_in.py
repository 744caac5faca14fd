"""Sign-in to a real gateway at a real OpenID provider: panva's certified oidc-provider."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tools import oidc_provider
from tools.oidc_provider import Provider
from tools.processes import Gateway, held_port

HTML = {"Accept": "text/html"}
ADMIN = {"Authorization": "Bearer sk-ops"}
Site = Callable[..., tuple[Gateway, Provider]]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Factory: a gateway with these flags that knows a provider."""
    script = oidc_provider.find()
    if script is None:
        pytest.skip("no OpenID provider here: python -m tools.oidc_provider says why")
    children: list[Any] = []

    def begin(*flags: str, **keys: str) -> tuple[Gateway, Provider]:
        folder = tmp_path_factory.mktemp("oidc")
        (folder / "keys").write_text("ops sk-ops\n")
        port = held_port()
        callback = f"http://127.0.0.1:{port}/signin/oidc/callback"
        provider = Provider(script, held_port(), callback, folder / "provider.log")
        children.append(provider)
        provider.start()
        words = ["--llama-api", "http://127.0.0.1:9", "--api-key-file", str(folder / "keys")]
        words += ["--admins", "ops", "--data", str(folder / "data"), "--wrong-keys", "0"]
        keys["issuer"] = provider.issuer
        env = {f"SLOTPROXY_OIDC_{name.upper()}": value for name, value in keys.items()}
        gateway = Gateway([*words, *flags], folder / "gateway.log", port=port, env=env)
        children.append(gateway)
        gateway.start(ready=0)
        return gateway, provider

    try:
        yield begin
    finally:
        for child in reversed(children):
            child.kill()


SECRET = {"client_id": "slotproxy", "client_secret": "a secret: with%signs"}


@pytest.fixture(scope="module")
def site(start: Site) -> tuple[Gateway, Provider]:
    rules = {"team_claim": "groups", "admins": "groups=slotproxy-admins", "allow": "groups=staff"}
    gateway, provider = start(**SECRET, **rules)
    httpx.post(f"{gateway.url}/team/new", json={"team_id": "research"}, headers=ADMIN)
    return gateway, provider


class Browser(httpx.Client):
    """Follows redirects, and keeps the cookies of both sites apart as browsers do with ports of one
    host: not at all."""

    def __init__(self) -> None:
        super().__init__(headers=HTML, follow_redirects=True, timeout=30)

    def to_provider(self, gateway: Gateway, to: str = "/status") -> httpx.Response:
        """Go to the provider's form."""
        return self.get(f"{gateway.url}/signin/oidc", params={"to": to})

    def submit(self, page: httpx.Response, **fields: str) -> httpx.Response:
        """Submit the form of a page of the provider."""
        action = re.search(r'<form[^>]*action="([^"]*)"', page.text)
        assert action, page.text
        hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="(\w+)"', page.text))
        return self.post(str(page.url.join(action[1])), data={**hidden, **fields})

    def sign_in(self, gateway: Gateway, name: str, to: str = "/status") -> httpx.Response:
        page = self.submit(self.to_provider(gateway, to), login=name, password="any")
        return self.submit(page)  # consent


def key_of(gateway: Gateway, user: str) -> Any:
    """The keys of a user."""
    query = {"user_id": user, "return_full_object": "true"}
    keys = httpx.get(f"{gateway.url}/key/list", params=query, headers=ADMIN).json()["keys"]
    assert len(keys) == 1, keys
    return keys[0]


def test_person_signs_in_and_has_a_key_of_their_own(site: tuple[Gateway, Provider]) -> None:
    gateway, provider = site
    with Browser() as browser:
        assert (
            provider.issuer.split("//")[1].split(":")[0]
            in browser.get(f"{gateway.url}/signin").text
        )
        page = browser.sign_in(gateway, "carol", to="/knowledge")
        assert page.status_code == 200
        assert 'http-equiv="refresh" content="0; url=/knowledge"' in page.text
        assert browser.get(f"{gateway.url}/status").url.path == "/status"
        assert browser.get(f"{gateway.url}/keys").status_code == 403
    key = key_of(gateway, "carol@example.org")
    assert (key["key_alias"], key["team_id"], key["admin"]) == (
        "carol@example.org",
        "research",
        False,
    )
    assert key["metadata"] == {"oidc": {"issuer": provider.issuer, "subject": "carol"}}
    with Browser() as again:
        again.sign_in(gateway, "carol")
        assert key_of(gateway, "carol@example.org") == key
    assert "carol" not in [line for line in gateway.log.splitlines() if "code=" in line]


def test_claims_make_administrators_for_as_long_as_they_say_so(
    site: tuple[Gateway, Provider],
) -> None:
    gateway, _ = site
    with Browser() as browser:
        browser.sign_in(gateway, "ops")
        assert browser.get(f"{gateway.url}/keys").status_code == 200
    key = key_of(gateway, "ops@example.org")
    assert (key["admin"], key["team_id"]) == (True, None)
    changed = {"key": key["token"], "admin": False}
    httpx.post(f"{gateway.url}/key/update", json=changed, headers=ADMIN).raise_for_status()
    with Browser() as browser:
        browser.sign_in(gateway, "ops")
        assert key_of(gateway, "ops@example.org")["admin"] is True


def test_blocked_person_is_signed_out_and_cannot_come_back(site: tuple[Gateway, Provider]) -> None:
    gateway, _ = site
    with Browser() as browser:
        browser.sign_in(gateway, "dave")
        key = {"key": key_of(gateway, "dave@example.org")["token"]}
        httpx.post(f"{gateway.url}/key/block", json=key, headers=ADMIN).raise_for_status()
        assert browser.get(f"{gateway.url}/status").url.path == "/signin"
        assert browser.to_provider(gateway).status_code == 401  # the provider knows dave already


def test_answer_of_another_browser_or_used_twice_is_refused(site: tuple[Gateway, Provider]) -> None:
    gateway, _ = site
    with Browser() as victim, Browser() as attacker:
        consent = attacker.submit(attacker.to_provider(gateway), login="ops", password="any")
        attacker.follow_redirects = False
        answer = attacker.submit(consent)
        while "/signin/oidc/callback" not in answer.headers["location"]:
            answer = attacker.get(answer.headers["location"])
        callback = answer.headers["location"]
        assert victim.get(callback).status_code == 401
        victim.get(f"{gateway.url}/signin/oidc", follow_redirects=False)  # begun, but another one
        assert victim.get(callback).status_code == 401
        wrong = callback.replace(parse_qs(urlsplit(callback).query)["code"][0], "made-up")
        cookie = attacker.cookies["slotproxy_sign_in"]
        assert attacker.get(wrong).status_code == 401
        attacker.cookies.set("slotproxy_sign_in", cookie, domain="127.0.0.1", path="/")
        assert attacker.get(callback).status_code == 200
        attacker.cookies.set("slotproxy_sign_in", cookie, domain="127.0.0.1", path="/")
        assert attacker.get(callback).status_code == 401


def test_requests_of_other_sites_lock_nobody_out(start: Site) -> None:
    gateway, _ = start("--wrong-keys", "3", **SECRET)
    with Browser() as browser:
        for _ in range(5):
            made_up = browser.get(f"{gateway.url}/signin/oidc/callback?state=x&code=y")
            assert made_up.status_code == 401
        assert browser.sign_in(gateway, "carol").status_code == 200
