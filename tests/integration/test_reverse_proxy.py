"""The configurations of deploy/ for nginx and Caddy in front of real gateways.

The tests replace only addresses and paths. The gateways run with the flags of the page, in front of
a stub whose tokens contain the time they were sent.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from proxy.config import Settings
from tests.docs_pages import ROOT, blocks
from tests.fakes import wait_until
from tests.integration.asking import in_flight
from tools.processes import Child, Gateway, ask, held_port

PAGE = ROOT / "docs" / "deploy" / "reverse-proxy.md"
NGINX_CONFIG = ROOT / "deploy" / "nginx" / "slotproxy.conf"
TWO_GATEWAYS = ROOT / "deploy" / "nginx" / "two-gateways.conf"
CADDYFILE = ROOT / "deploy" / "caddy" / "Caddyfile"
HOST = "gateway.example.org"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
OPENSSL = shutil.which("openssl")
CADDY = shutil.which("caddy")
CHAT = "/v1/chat/completions"
QUESTION = {"messages": [{"role": "user", "content": "Go on"}]}


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a backend that streams twenty tokens a second."""
    port = held_port()
    command = [sys.executable, "-m", "benchmarks.stub", "--port", str(port)]
    process = Child(command, tmp_path_factory.mktemp("stub") / "stub.log")
    process.launch()
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: ask(f"{url}/pace/10")[0] == 200)
    yield url
    process.kill()


class Front:
    """nginx with TLS in front of a gateway. Requests have the host of the page."""

    def __init__(self, gateway: Gateway, port: int, certificate: Path) -> None:
        self.gateway = gateway
        self._port = port
        self._trusted = ssl.create_default_context(cafile=str(certificate))

    def connect(self, source: str = "127.0.0.1") -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self._port), 60, (source, 0))
        return self._trusted.wrap_socket(plain, server_hostname=HOST)

    @contextlib.contextmanager
    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        source: str = "127.0.0.1",
    ) -> Iterator[http.client.HTTPResponse]:
        """The response, with its body unread. The end of the block closes the connection."""
        connection = http.client.HTTPSConnection(HOST)
        connection.sock = self.connect(source)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        kind = {"Content-Type": "application/json"} if data else {}
        try:
            connection.request(method, path, data, {**kind, **(headers or {})})
            yield connection.getresponse()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def programs() -> Iterator[Callable[..., Child]]:
    """Factory: ``programs(child, port)`` runs a proxy until the tests are over."""
    running: list[Child] = []

    def start(program: Child, port: int) -> Child:
        running.append(program)
        program.launch()
        wait_until(lambda: _listens(port) or not program.alive)
        assert program.alive, program.log
        return program

    yield start
    for program in running:
        program.stop()


@pytest.fixture(scope="module")
def placed(
    stub: str, module_gateway: Callable[..., Gateway], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Gateway, Path]]:
    """Factory: ``placed(*flags)`` starts the gateway of the page, with additional flags, and writes
    a certificate into a new folder."""
    if OPENSSL is None:
        pytest.skip("no openssl here: apt-get install openssl")
    shown = next(flags for block in blocks(PAGE) for flags in block.flags)

    def start(*flags: str) -> tuple[Gateway, Path]:
        folder = tmp_path_factory.mktemp("proxy")
        words = [stub if word == "http://127.0.0.1:8080" else word for word in shown]
        _certificate(folder)
        return module_gateway(*words, "--data", str(folder / "data"), *flags), folder

    return start


@pytest.fixture(scope="module")
def front(
    placed: Callable[..., tuple[Gateway, Path]], programs: Callable[..., Child]
) -> Callable[..., Front]:
    """Factory: ``front(*flags)`` starts such a gateway behind nginx."""
    if NGINX is None:
        pytest.skip("no nginx here: apt-get install nginx")

    def start(*flags: str) -> Front:
        gateway, folder = placed(*flags)
        port = held_port()
        places = {"http://127.0.0.1:8081;": f"{gateway.url};"}
        programs(_nginx(folder, _nginx_config(NGINX_CONFIG, folder, port, places)), port)
        return Front(gateway, port, folder / "gateway.pem")

    return start


@pytest.fixture(scope="module")
def behind_caddy(
    placed: Callable[..., tuple[Gateway, Path]], programs: Callable[..., Child]
) -> Front:
    """Such a gateway behind Caddy."""
    if CADDY is None:
        pytest.skip("no caddy here: apt-get install caddy")
    gateway, folder = placed("--chatchat")
    port = held_port()
    places = {
        f"\n{HOST} {{\n": f"\nhttps://{HOST}:{port} {{\n"
        f"\ttls {folder}/gateway.pem {folder}/gateway.key\n",
        "127.0.0.1:8081": gateway.url.removeprefix("http://"),
    }
    options = "{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n}\n"
    config = folder / "Caddyfile"
    config.write_text(options + _with_places(CADDYFILE, places), encoding="utf-8")
    command: list[str | Path] = [CADDY, "run", "--config", config, "--adapter", "caddyfile"]
    home = {**os.environ, "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    programs(Child(command, folder / "caddy.log", home), port)
    return Front(gateway, port, folder / "gateway.pem")


@pytest.fixture(scope="module")
def behind_nginx(front: Callable[..., Front]) -> Front:
    return front("--chatchat")


@pytest.fixture(scope="module", params=["behind_nginx", "behind_caddy"])
def documented(request: pytest.FixtureRequest) -> Front:
    site: Front = request.getfixturevalue(request.param)
    return site


def _with_places(file: Path, places: Mapping[str, str]) -> str:
    """A configuration with local addresses and paths."""
    config = file.read_text("utf-8")
    for shown, here in places.items():
        assert config.count(shown) == 1, shown
        config = config.replace(shown, here)
    return config


def _nginx_config(file: Path, folder: Path, port: int, places: Mapping[str, str]) -> str:
    ours = {
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "/etc/ssl/gateway.pem;": f"{folder}/gateway.pem;",
        "/etc/ssl/gateway.key;": f"{folder}/gateway.key;",
    }
    return _with_places(file, {**ours, **places})


def _nginx(folder: Path, server: str) -> Child:
    temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "\n".join(f"{name}_temp_path {folder}/{name};" for name in temporary)
    # Without it, the workers of root run as another user, who cannot write to the folder.
    user = "user root; " if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user}daemon off; pid {folder}/nginx.pid; error_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{paths}\n{server}}}\n"
    )
    command: list[str | Path] = [str(NGINX), "-e", "stderr", "-p", folder]
    command += ["-c", folder / "nginx.conf"]
    return Child(command, folder / "nginx.log", cwd=folder)


def _certificate(folder: Path) -> Path:
    """Write a self-signed certificate for the host of the page, and its key."""
    words = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={HOST}".split()
    files: list[str | Path] = ["-keyout", folder / "gateway.key", "-out", folder / "gateway.pem"]
    name = ["-addext", f"subjectAltName=DNS:{HOST}"]
    subprocess.run([str(OPENSSL), *words, *name, *files], check=True, capture_output=True)
    return folder / "gateway.pem"


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _log_line(front: Front, request_id: str) -> dict[str, Any]:
    """The log line of a request. The gateway writes it after the answer."""

    def lines() -> list[str]:
        return [line for line in front.gateway.log.splitlines() if request_id in line]

    wait_until(lambda: bool(lines()))
    line: dict[str, Any] = json.loads(lines()[0][lines()[0].index("{") :])
    return line


# -- streams ---------------------------------------------------------------------------------------

COUNT = 30  # tokens, in three seconds
STREAMS = {
    "server-sent events": (CHAT, {**QUESTION, "stream": True, "max_tokens": COUNT}),
    "lines of JSON": (
        "/api/chat",
        {**QUESTION, "model": "stub", "options": {"num_predict": COUNT}},
    ),
    "chunks of Chatchat": ("/chat/chat", {"query": "Go on", "stream": True, "max_tokens": COUNT}),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_first_event_arrives_before_the_last_token_is_generated(
    kind: str, documented: Front
) -> None:
    path, body = STREAMS[kind]
    with documented.request("POST", path, body) as answer:
        assert answer.status == 200
        seen, first = b"", 0.0
        while part := answer.read1(65536):
            seen += part
            first = first or (time.monotonic() if re.search(rb"t\d{15} ", seen) else 0.0)
    sent = [int(stamp) / 1e6 for stamp in re.findall(rb"t(\d{15}) ", seen)]
    assert len(sent) == COUNT
    assert first < sent[-1]


@pytest.mark.parametrize("stream", [True, False])
def test_slot_is_free_after_a_client_of_the_proxy_leaves(stream: bool, documented: Front) -> None:
    body = json.dumps({**QUESTION, "stream": stream, "max_tokens": 4000}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    with documented.connect() as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: in_flight(documented.gateway.url) == 1)
    wait_until(lambda: in_flight(documented.gateway.url) == 0, 60)


# -- uploads ---------------------------------------------------------------------------------------


def _upload(front: Front, size: int) -> tuple[int, dict[str, Any]]:
    edge = uuid.uuid4().hex
    part = f'--{edge}\r\nContent-Disposition: form-data; name="{{}}"'
    body = b"".join(
        [
            f"{part.format('purpose')}\r\n\r\nassistants\r\n".encode(),
            f'{part.format("file")}; filename="a.txt"\r\n\r\n'.encode(),
            b"x" * size,
            f"\r\n--{edge}--\r\n".encode(),
        ]
    )
    kind = {"Content-Type": f"multipart/form-data; boundary={edge}"}
    with front.request("POST", "/v1/files", body, kind) as answer:
        return answer.status, json.loads(answer.read())


def test_largest_allowed_document_passes_the_proxy(documented: Front) -> None:
    size = Settings().max_document
    status, file = _upload(documented, size)
    assert (status, file["bytes"]) == (200, size)


def test_larger_document_is_refused_by_the_gateway_and_not_by_the_proxy(
    documented: Front,
) -> None:
    status, error = _upload(documented, Settings().max_document + 1)
    assert status == 413
    assert "67108864" in error["error"]["message"]


# -- addresses and hosts ---------------------------------------------------------------------------


def test_log_has_the_address_of_the_client_although_it_sends_a_forged_one(
    documented: Front,
) -> None:
    forged = {"X-Forwarded-For": "203.0.113.9"}
    body = {**QUESTION, "max_tokens": 1}
    with documented.request("POST", CHAT, body, forged, source="127.0.0.2") as answer:
        assert answer.status == 200
        request_id = answer.headers["x-request-id"]
    assert _log_line(documented, request_id)["peer"] == "127.0.0.2"


def test_other_host_is_refused(behind_nginx: Front) -> None:
    with behind_nginx.request("GET", "/v1/models") as answer:
        assert answer.status == 200
    with behind_nginx.request("GET", "/v1/models", headers={"Host": "evil.example"}) as answer:
        assert answer.status == 403
        assert json.loads(answer.read())["error"]["code"] == "unknown_host"


def test_requests_of_own_pages_are_accepted_and_of_other_sites_refused(documented: Front) -> None:
    body = {**QUESTION, "max_tokens": 1}
    with documented.request("POST", CHAT, body, {"Origin": f"https://{HOST}"}) as answer:
        assert answer.status == 200
    with documented.request("POST", CHAT, body, {"Origin": "https://evil.example"}) as answer:
        assert answer.status == 403


def test_session_cookies_are_secure(front: Callable[..., Front]) -> None:
    with front("--api-key", "sk-1").request("GET", "/signin") as answer:
        assert answer.status == 200
        cookies = answer.headers.get_all("Set-Cookie") or []
    assert cookies
    assert all("; Secure" in cookie for cookie in cookies)


# -- the WebSocket, and two gateways ---------------------------------------------------------------


def test_websocket_passes_the_proxy(documented: Front) -> None:
    with documented.connect() as client:
        client.sendall(
            f"GET /v1/responses HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        assert client.recv(12) == b"HTTP/1.1 101"


def test_second_gateway_answers_when_the_first_is_gone(
    placed: Callable[..., tuple[Gateway, Path]], programs: Callable[..., Child]
) -> None:
    if NGINX is None:
        pytest.skip("no nginx here: apt-get install nginx")
    (first, folder), (second, _) = placed(), placed()
    port = held_port()
    hosts = (f"gateway-{n}:8081 " for n in (1, 2))
    places = {
        host: f"{gateway.url.removeprefix('http://')} "
        for host, gateway in zip(hosts, (first, second), strict=True)
    }
    programs(_nginx(folder, _nginx_config(TWO_GATEWAYS, folder, port, places)), port)
    fronts = Front(second, port, folder / "gateway.pem")
    body = {**QUESTION, "max_tokens": 1}
    first.kill()
    wait_until(
        lambda: not _listens(urlsplit(first.url).port or 0)
    )  # its worker ends a moment later
    for _ in range(4):
        with fronts.request("POST", CHAT, body) as answer:
            assert answer.status == 200
