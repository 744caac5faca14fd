"""The gevent worker on real sockets: requests, bounds, timeouts, connection limits."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from proxy.server.http1 import MAX_LINGERED
from tests.fakes import wait_until
from tools.processes import Gateway, ModelServer, ask

from .child_processes import children
from .conftest import StartGateway

GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
READ = MAX_LINGERED + (16 << 20)  # bytes, with the buffers of the system
CHAT = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
)


def awake(gateway: Gateway) -> Gateway:
    """The same when its worker serves, which a busy machine starts slowly."""
    wait_until(lambda: ask(f"{gateway.url}/livez")[0] == 200)
    return gateway


def connect(gateway: Gateway, seconds: float = 60) -> socket.socket:
    parts = urlsplit(gateway.url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=seconds)


def read_all(client: socket.socket) -> bytes:
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(65536):
            said += data
    return said


def exchange(gateway: Gateway, *pieces: bytes) -> bytes:
    """The answer until the gateway closes the connection or a timeout passes."""
    with connect(gateway) as client:
        for piece in pieces:
            client.sendall(piece)
        return read_all(client)


def push(client: socket.socket, piece: bytes, most: int) -> int:
    """Sends pieces until the connection breaks. Returns the number of bytes sent."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < most:
            client.sendall(piece)
            sent += len(piece)
    return sent


SHORT = {"BODY_TIMEOUT": 1, "SEND_TIMEOUT": 2}


@pytest.fixture
def keyed(module_gateway: StartGateway) -> Gateway:
    """A gateway that requires a key, without a backend, with short timeouts."""
    flags = ("--llama-api", "http://127.0.0.1:9", "--api-key", "sesame")
    return awake(module_gateway(*flags, ready=0, fixed=SHORT))


# -- bytes before authentication -------------------------------------------------------------------


def _form(size: int, chunked: bool) -> bytes:
    form = b"key=" + b"a" * (size - 4)
    head = b"POST /signin HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += b"Content-Type: application/x-www-form-urlencoded\r\n"
    if chunked:
        return head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (size, form)
    return head + b"Content-Length: %d\r\n\r\n%b" % (size, form)


@pytest.mark.parametrize("chunked", [True, False])
def test_sign_in_form_size_is_bounded(keyed: Gateway, chunked: bool) -> None:
    bound = 16 << 10
    assert exchange(keyed, _form(bound, chunked)).startswith(b"HTTP/1.1 403 ")  # no CSRF token
    assert exchange(keyed, _form(bound + 1, chunked)).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("path", [b"/signin", b"/signout", b"/pages/api/chat/conversations"])
@pytest.mark.parametrize("key", [b"", b"Authorization: Bearer wrong\r\n"])
@pytest.mark.parametrize("kind", [b"application/x-www-form-urlencoded", b"multipart/form-data"])
def test_form_with_wrong_key_is_read_only_up_to_a_bound(
    keyed: Gateway, path: bytes, key: bytes, kind: bytes
) -> None:
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: %b; boundary=b\r\n" % (path, kind)
    part = b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
    with connect(keyed) as client:
        client.sendall(head + key + b"Transfer-Encoding: chunked\r\n\r\n")
        client.sendall(b"%x\r\n%b\r\n" % (len(part), part))
        sent = push(client, b"10000\r\n%b\r\n" % (b"a" * 65536), 100 << 20)
    assert sent < READ
    assert _memory(keyed) < 300_000, "kB"


def test_pipelined_requests_of_clients_that_do_not_read_take_little_memory(keyed: Gateway) -> None:
    """A megabyte for each client was 8 GB for all the connections that are accepted."""
    begun = _memory(keyed)
    get = b"GET /static/vendor/katex/katex.min.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    flood = get * 40 + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 1900
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(60)
            parts = urlsplit(keyed.url)
            client.connect((parts.hostname, parts.port))
            client.sendall(flood)
        time.sleep(1.0)
        grown = _memory(keyed) - begun
    assert grown < 45_000, "kB"


def _memory(gateway: Gateway) -> int:
    """The resident kilobytes of its worker."""
    return int(re.findall(r"VmRSS:\s+(\d+)", _status(gateway))[0])


def _status(gateway: Gateway) -> str:
    """Of its worker."""
    return Path(f"/proc/{children(gateway.pid)[0]}/status").read_text()


# -- nobody is reset -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "key", "size", "status"),
    [
        ("/v1/chat/completions", "wrong", 8 << 20, 401),
        ("/v1/chat/completions", "sesame", 34 << 20, 413),
        ("/v1/nothing", "sesame", 8 << 20, 404),
        ("/livez", "sesame", 8 << 20, 405),
    ],
)
def test_client_that_sends_a_large_body_in_vain_gets_the_answer(
    keyed: Gateway, path: str, key: str, size: int, status: int
) -> None:
    """Python's own client, as many others, reads it only when it has sent everything."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    with contextlib.closing(
        http.client.HTTPConnection(urlsplit(keyed.url).netloc, timeout=60)
    ) as client:
        client.request("POST", path, b" " * size, headers)
        answer = client.getresponse()
        assert answer.status == status
        assert json.loads(answer.read())["error"]["message"]


@pytest.mark.parametrize(
    "request_",
    [
        GET.replace(b"Host", b"Connection: close\r\nHost"),
        b"GET /livez HTTP/1.0\r\n\r\n",
        b"GET /livez HTTP/9\r\n\r\n",
    ],
    ids=["last", "1.0", "refused"],
)
def test_client_that_sends_behind_its_last_answer_is_not_reset(
    keyed: Gateway, request_: bytes
) -> None:
    with connect(keyed) as client:
        client.sendall(request_ + GET)
        answer = b""
        while data := client.recv(65536):
            answer += data
        for _ in range(3):  # a reset fails the second
            client.sendall(GET)
            time.sleep(0.05)
        assert client.recv(65536) == b""
    assert answer.count(b"\r\n\r\n") == 1


# -- times -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (CHAT + b"Authorization: Bearer sesame\r\n", b"408"),
        (CHAT, b"401"),
        (b"POST /signin HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n", b"408"),
        (
            b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sesame\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n",
            b"408",
        ),
    ],
    ids=["chat", "without a key", "sign in", "upload"],
)
def test_trickling_body_times_out(keyed: Gateway, head: bytes, status: bytes) -> None:
    said = trickled(keyed, head + b"Content-Length: 9000\r\n\r\n--b\r\n")
    assert said[9:12] == status
    assert "Traceback" not in keyed.log


def trickled(gateway: Gateway, head: bytes) -> bytes:
    """The answer to a client that sends its body byte by byte until it is disconnected."""
    with connect(gateway) as client:
        client.sendall(head)
        client.settimeout(0.1)
        said, end = b"", time.monotonic() + 60
        while time.monotonic() < end:
            try:
                client.sendall(b"a")
                data = client.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                return said
            if not data:
                return said
            said += data
    raise AssertionError("it may trickle for ever")


@pytest.mark.slow
def test_real_server_serves_others_while_one_client_reads_nothing(
    start_server: Callable[..., ModelServer], gateway: StartGateway
) -> None:
    """Its only slot is free when the model has finished, however little the client has read."""
    server = start_server("llama-2023", slots=1, ctx=8192)
    running = gateway("--llama-api", server.url)
    body = {"messages": [{"role": "user", "content": "a"}], "stream": True, "max_tokens": 4000}
    body |= {"logprobs": True, "top_logprobs": 20, "ignore_eos": True}
    data = json.dumps(body).encode()
    parts = urlsplit(running.url)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(60)
        client.connect((parts.hostname, parts.port))
        head = CHAT + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(data)
        client.sendall(head + data)
        assert client.recv(10).startswith(b"HTTP/1.1 ")
        short = {"messages": body["messages"], "max_tokens": 1}
        assert ask(f"{running.url}/v1/chat/completions", short, seconds=200)[0] == 200
        said = read_all(client)
    assert len(said) > 3 << 20  # more than the sockets take
    assert b"data: [DONE]" in said


# -- places ----------------------------------------------------------------------------------------


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Starts a gateway with a limit of open files."""
    started: list[Gateway] = []

    def start(files: int, *flags: str) -> Gateway:
        gateway = Gateway(("--llama-api", "http://127.0.0.1:9", *flags), tmp_path / "log")
        gateway.command = ["/bin/sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *gateway.command]
        started.append(gateway)
        gateway.start(ready=0)
        return awake(gateway)

    yield start
    for gateway in started:
        gateway.stop()


@contextlib.contextmanager
def connected(gateway: Gateway, count: int, first: bytes = b"") -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(count):
            clients.append(stack.enter_context(connect(gateway)))
            if first:
                clients[-1].sendall(first)
        yield clients


def test_low_file_limit_leaves_nearly_all_files_for_connections(
    limited: Callable[..., Gateway],
) -> None:
    """With 1024, as systemd gives, 900 connections are served."""
    gateway = limited(300)
    with connected(gateway, 176) as clients:
        for client in clients:
            client.sendall(GET)
        for client in clients:
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
    assert "Traceback" not in gateway.log


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\n", GET], ids=["silent", "head", "idle"])
def test_longest_idle_connection_is_closed_for_a_new_one(
    limited: Callable[..., Gateway], first: bytes
) -> None:
    gateway = limited(300)
    with connected(gateway, 400, first) as clients:
        assert ask(f"{gateway.url}/livez") == (200, b'{"status":"ok"}')
        assert ask(f"{gateway.url}/v1/models")[0] in (200, 503)
        last = clients[-1]
        last.sendall(b"Host: localhost\r\n\r\n" if first.endswith(b"1.1\r\n") else GET)
        assert b"HTTP/1.1 " in last.recv(65536)
    assert "Traceback" not in gateway.log


def test_connections_waiting_for_a_body_are_closed_last(limited: Callable[..., Gateway]) -> None:
    gateway = limited(300)
    body = CHAT + b"Content-Length: 1000\r\n\r\n{"
    with connected(gateway, 150, body), connected(gateway, 200) as idle:
        assert ask(f"{gateway.url}/livez", seconds=30)[0] == 200
        assert idle[0].recv(1) == b""  # the longest idle one went
    with connected(gateway, 400, body):
        assert ask(f"{gateway.url}/livez", seconds=30)[0] == 200
    assert "Traceback" not in gateway.log


def test_last_connections_are_reserved_for_health_checks(
    limited: Callable[..., Gateway],
) -> None:
    gateway = limited(132)
    feed = GET.replace(b"/livez", b"/pages/api/status/events")
    with connected(gateway, 24, feed) as clients:
        for client in clients:
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
        assert ask(f"{gateway.url}/livez", seconds=30)[0] == 200
        status, said = ask(f"{gateway.url}/v1/models")
        assert status == 503
        assert b"too many connections" in said
    wait_until(lambda: ask(f"{gateway.url}/v1/backends")[0] == 200)
    assert "Traceback" not in gateway.log


# -- other servers ---------------------------------------------------------------------------------


@pytest.fixture
def waitress(module_gateway: StartGateway) -> Gateway:
    flags = ("--llama-api", "http://127.0.0.1:9", "--api-key", "sesame", "--server", "waitress")
    return awake(module_gateway(*flags, ready=0, fixed=SHORT))


def test_waitress_reads_little_from_clients_without_key(waitress: Gateway) -> None:
    def answered(size: int, key: bytes) -> bytes:
        with connect(waitress) as client:
            client.sendall(CHAT + key + b"Content-Length: %d\r\n\r\n" % size)
            push(client, b"{" * 1024, size)
            return client.recv(65536)[9:12]

    bound = 64 << 10
    assert answered(bound - 1024, b"") == b"401"
    assert answered(bound, b"") == answered(bound, b"X-Api-Key: wrong\r\n") == b"413"
    assert answered(1 << 20, b"Authorization: Bearer sesame\r\n") == b"400"


def test_waitress_bounds_chunk_extensions(waitress: Gateway) -> None:
    with connect(waitress) as client:
        head = CHAT + b"X-Api-Key: sesame\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: "
        client.sendall(head)
        assert push(client, b"a" * 65536, 200 << 20) < READ


def test_waitress_times_out_a_trickling_body(waitress: Gateway) -> None:
    trickled(waitress, CHAT + b"X-Api-Key: sesame\r\nContent-Length: 400000\r\n\r\n")


def test_waitress_thread_is_freed_from_a_client_that_reads_nothing(gateway: StartGateway) -> None:
    flags = ("--llama-api", "http://127.0.0.1:9", "--server", "waitress")
    running = awake(gateway(*flags, ready=0, fixed={"SEND_TIMEOUT": 1, "THREADS": 1}))
    request = GET.replace(b"/livez", b"/static/vendor/katex/katex.min.js")
    with connect(running, 2) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with contextlib.suppress(TimeoutError):
            push(client, request * 100, 100 << 20)
        wait_until(lambda: ask(f"{running.url}/livez", seconds=1)[0] == 200)  # its thread is free
