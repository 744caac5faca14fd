"""Cross-site requests to a gateway without keys are refused on every route."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import pytest
from flask.testing import FlaskClient

from proxy.config import Secret, SettingsError, load
from proxy.web.site import MAX_HOST, REMEMBERED, Sites
from tests.fakes import client

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
EVIL = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
# Method, path and body of each kind: JSON on the direct route, multipart, none.
CHANGES: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/v1/chat/completions", {"json": CHAT}),
    ("POST", "/api/chat", {"json": {"model": "any", "stream": False, **CHAT}}),
    ("POST", "/v1/files", {"data": {"purpose": "assistants"}}),
    ("POST", "/v1/vector_stores", {}),
    ("POST", "/v1/responses/resp_1/cancel", {}),
    ("DELETE", "/v1/data", {}),
    ("PATCH", "/pages/api/chat/conversations/c1", {"json": {}}),
    ("POST", "/nowhere", {}),
]


@pytest.fixture(scope="module")
def open_one() -> FlaskClient:
    """A gateway without keys."""
    return client()


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
@pytest.mark.parametrize(
    "headers",
    [
        EVIL,
        {"Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"},
        {"Origin": "null"},
        {"Origin": "chrome-extension://abcdef", "Sec-Fetch-Site": "none"},
    ],
)
def test_cross_site_requests_are_refused(
    open_one: FlaskClient, method: str, path: str, body: dict[str, Any], headers: dict[str, str]
) -> None:
    answer = open_one.open(path, method=method, headers=headers, **body)
    assert answer.status_code == 403
    assert answer.json is not None
    error = answer.json["error"]
    if path == "/api/chat":  # Ollama's form has no code
        assert "--cors-origins" in error
    else:
        assert "--cors-origins" in error["message"]
        assert error["code"] == "unknown_origin"


def test_cross_site_upload_is_not_stored(tmp_path: Any) -> None:
    to = client(data=str(tmp_path))
    form = {"purpose": "assistants", "file": (BytesIO(b"poison"), "a.txt")}
    assert to.post("/v1/files", data=form, headers=EVIL).status_code == 403
    listed = to.get("/v1/files").json
    assert listed is not None and listed["data"] == []


@pytest.mark.parametrize(
    "headers",
    [
        {},  # curl, SDKs, servers
        {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "http://localhost"},  # browsers send no Sec-Fetch-Site to plain-HTTP addresses
        {"Origin": "https://front.example", "Sec-Fetch-Site": "same-origin"},  # a proxy in front
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin"},
    ],
)
def test_own_pages_and_programs_are_accepted(
    open_one: FlaskClient, headers: dict[str, str]
) -> None:
    assert open_one.post("/v1/chat/completions", json=CHAT, headers=headers).status_code == 200


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", ""])
def test_json_needs_its_type_only_from_pages(open_one: FlaskClient, kind: str) -> None:
    """`curl -d` and Ollama's examples do not set it."""
    sent: dict[str, Any] = {"data": json.dumps(CHAT), "content_type": kind}
    assert open_one.post("/v1/chat/completions", **sent).status_code == 200
    own = {"Origin": "http://localhost"}
    assert open_one.post("/v1/chat/completions", headers=own, **sent).status_code == 415


@pytest.mark.parametrize("named", ["http://evil.example", "*"])
def test_named_origins_are_accepted(named: str) -> None:
    to = client(cors_origins=(named,))
    assert to.post("/v1/chat/completions", json=CHAT, headers=EVIL).status_code == 200
    other = {"Origin": "https://else.example"}
    status = to.post("/v1/chat/completions", json=CHAT, headers=other).status_code
    assert status == (200 if named == "*" else 403)


def test_all_pages_of_a_named_host_are_accepted() -> None:
    to = client(cors_origins=("localhost",))
    for origin, status in (("http://127.0.0.1:3000", 200), ("http://evil.example", 403)):
        headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
        answer = to.post("/v1/chat/completions", json=CHAT, headers=headers)
        assert answer.status_code == status


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_cross_site_reads_are_left_to_cors(open_one: FlaskClient, method: str) -> None:
    assert open_one.open("/v1/models", method=method, headers=EVIL).status_code == 200


HOSTS = ["evil.example", "evil.example:8081", "localhost.evil.example", "127.0.0.1.evil.example"]
HOSTS += ["127.0.0.1@evil.example", "localhost:x", "[::1", "[evil.example]", "x" * 4000, "é", " "]
HOSTS += ["docker.internal", "com", "1.2.3", "2130706433"]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("target", ["GET /v1/data", "POST /v1/chat/completions", "GET /"])
def test_foreign_host_names_are_refused(open_one: FlaskClient, target: str, host: str) -> None:
    method, path = target.split()
    answer = open_one.open(path, method=method, environ_overrides={"HTTP_HOST": host})
    assert answer.status_code == 403
    assert answer.json is not None and "--allowed-hosts" in answer.json["error"]["message"]
    assert len(answer.data) < 6 * MAX_HOST


def reached(host: str, listens: str = "127.0.0.1", *allowed: str, machine: str = "") -> bool:
    settings = load(["--host", listens, "--allowed-hosts", ",".join(allowed)], {})
    sites = Sites(settings.host, settings.allowed_hosts, (), machine=machine)
    try:
        sites.check_host({"HTTP_HOST": host})
    except Exception:
        return False
    return True


LOCAL = ["localhost", "LOCALHOST:8081", "localhost.", "chat.localhost:1", "", "[::1]:8081", "[::1]"]
LOCAL += ["127.0.0.1:8081", "127.9.9.9", "192.168.1.7:8081", "8.8.8.8"]
LOCAL += ["host.docker.internal:8081", "host.containers.internal"]


@pytest.mark.parametrize("listens", ["127.0.0.1", "localhost", "::1", "0.0.0.0", "10.0.0.7"])
@pytest.mark.parametrize("host", LOCAL)
def test_addresses_and_local_names_are_accepted(host: str, listens: str) -> None:
    assert reached(host, listens)


@pytest.mark.parametrize("host", ["slotproxy:8081", "nas.local", "gw.internal", "gw.home.arpa"])
def test_private_network_names_are_accepted_on_private_networks(host: str) -> None:
    assert reached(host, "0.0.0.0") and reached(host, "192.168.1.7")
    assert not reached(host, "127.0.0.1") and not reached(host, "::1")


def test_named_hosts_are_accepted() -> None:
    assert reached("gw.example.org:8081", "gw.example.org")
    assert reached("Gw.Example.org:8081", "127.0.0.1", "gw.example.ORG")
    assert not reached("a.gw.example.org", "127.0.0.1", "gw.example.org")
    for form in (".example.lan", "*.example.lan"):
        assert reached("a.b.example.lan", "127.0.0.1", form)
        assert not reached("badexample.lan", "127.0.0.1", form)
        assert not reached("example.lan.evil.example", "127.0.0.1", form)
    assert reached("evil.example", "127.0.0.1", "*")
    assert reached("server1.corp.example", machine="server1.corp.example")


@pytest.mark.parametrize("wrong", ["gw:8081", "http://gw", "a b", "[::1]", "*.*", "a..b"])
def test_invalid_host_header_is_refused(wrong: str) -> None:
    with pytest.raises(SettingsError, match="--allowed-hosts: expected a name without port"):
        load(["--allowed-hosts", wrong], {})


def test_hosts_and_origins_are_unrestricted_with_keys() -> None:
    to = client(api_key=(Secret("k"),))
    headers = {"Authorization": "Bearer k", "Host": "chat.example.org", **EVIL}
    assert to.post("/v1/chat/completions", json=CHAT, headers=headers).status_code == 200
    assert to.get("/v1/models", headers=headers).status_code == 200


def test_cross_site_requests_with_basic_credentials_are_refused() -> None:
    to = client(api_key=(Secret("k"),), chatchat=True)
    path, basic = "/knowledge_base/create_knowledge_base", {"Authorization": "Basic eDpr"}
    body = {"knowledge_base_name": ""}
    assert to.post(path, json=body, headers={**basic, **EVIL}).status_code == 403
    # It reaches the view, which refuses the empty name.
    assert to.post(path, json=body, headers=basic).json["code"] == 404


def test_refused_cross_site_request_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    client().post("/v1/files", headers=EVIL)
    (line,) = [r.getMessage() for r in caplog.records if r.name == "slotproxy.access"]
    assert '"path":"/v1/files"' in line and '"status":403' in line and "unknown_origin" in line


def test_number_of_remembered_hosts_is_bounded() -> None:
    sites = Sites("127.0.0.1", (), ())
    for i in range(2 * REMEMBERED):
        sites.check_host({"HTTP_HOST": f"127.0.0.1:{i + 1}"})
    assert len(sites.accepted) == REMEMBERED
