"""The server's side of HTTP/1.1, on a scripted socket."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http1 import Connection, Last, base_environ

POST = (
    b"POST /v1/x%20y?a=b HTTP/1.1\r\nHost: h\r\nX-Request-ID: 7\r\nContent-Length: 5\r\n\r\nhello"
)


class Wire:
    """Gives what the client sends, piece by piece, and keeps what it gets, send by send."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.sent: list[bytes] = []

    def recv(self, size: int, /) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def send(self, data: bytes, /) -> int:
        part = data[:1000]  # a short write
        self.sent.append(part)
        return len(part)

    def sendall(self, data: bytes, /) -> None:
        self.sent.append(data)


class App:
    """Remembers what it is asked; answers with `parts`."""

    def __init__(
        self,
        *parts: bytes,
        headers: Iterable[tuple[str, str]] = (("Content-Type", "t"),),
        status: str = "200 OK",
        reads: bool = True,
    ) -> None:
        self.parts = parts
        self.headers = list(headers)
        self.status = status
        self.reads = reads
        self.asked: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        self.asked.append(environ)
        if self.reads:
            self.bodies.append(environ["wsgi.input"].read())
        start(self.status, self.headers)
        return iter(self.parts)


def serve(app: App, *pieces: bytes, last: bool = False) -> Wire:
    wire = Wire(*pieces)
    environ = base_environ(wire, ("127.0.0.1", 80), ("10.0.0.1", 5))
    Connection(wire, app, environ).serve(lambda: last)
    return wire


def test_a_request_becomes_an_environment() -> None:
    app = App(b"out")
    serve(app, POST)
    (environ,) = app.asked
    assert environ["REQUEST_METHOD"] == "POST"
    assert environ["PATH_INFO"] == "/v1/x y"
    assert environ["QUERY_STRING"] == "a=b"
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert environ["HTTP_X_REQUEST_ID"] == "7"
    assert environ["CONTENT_LENGTH"] == "5"
    assert environ["REMOTE_ADDR"] == "10.0.0.1"
    assert app.bodies == [b"hello"]


def test_the_head_leaves_with_the_first_bytes_and_a_chunk_with_its_frame() -> None:
    sent = serve(App(b"one", b"two"), POST).sent
    assert sent[0].startswith(b"HTTP/1.1 200 OK\r\nContent-Type: t\r\nDate: ")
    assert sent[0].endswith(b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
    assert sent[1:] == [b"3\r\ntwo\r\n", b"0\r\n\r\n"]


def test_what_ends_a_body_leaves_with_its_last_part() -> None:
    served = serve(App(b"one", Last(b"two")), POST + POST)
    assert [sent for sent in served.sent if not sent.startswith(b"HTTP/")] == [
        b"3\r\ntwo\r\n0\r\n\r\n"
    ] * 2


def test_an_answer_of_known_length_is_one_send() -> None:
    (sent,) = serve(App(b"four", headers=[("Content-Length", "4")]), POST).sent
    assert sent.endswith(b"Connection: keep-alive\r\n\r\nfour")


def test_a_short_write_is_gone_on_with() -> None:
    body = bytes(range(256)) * 20
    sent = b"".join(serve(App(body, headers=[("Content-Length", "5120")]), POST).sent)
    assert sent.endswith(b"\r\n\r\n" + body)


@settings(max_examples=50)
@given(st.lists(st.integers(1, 4 * len(POST)), max_size=8))
def test_requests_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    chunked = (
        b"POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    data = POST + chunked + b"GET / HTTP/1.1\r\n\r\n" + POST
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    pieces = [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    app = App(b"x", headers=[("Content-Length", "1")])
    wire = serve(app, *pieces)
    assert app.bodies == [b"hello", b"abcde", b"", b"hello"]
    assert b"".join(wire.sent).count(b"HTTP/1.1 200 OK") == 4


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\nabc",
        b"GET / HTTP/1.1\r\nX: a\nY: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n X: folded\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"CONNECT h:80 HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_ambiguous_is_refused_and_the_connection_ends(data: bytes) -> None:
    app = App(b"x")
    wire = serve(app, data, POST)
    assert b"".join(wire.sent).startswith(b"HTTP/1.1 400 ") or not app.asked
    assert len(app.asked) == 0


def test_a_head_without_an_end_is_refused() -> None:
    app = App(b"x")
    wire = serve(app, b"GET / HTTP/1.1\r\nX: ", *[b"y" * 9000] * 100)
    assert b"".join(wire.sent).startswith(b"HTTP/1.1 431 ")
    assert len(wire.pieces) > 80  # the rest is not read


def test_a_name_with_an_underscore_passes_for_no_other() -> None:
    app = App(b"x")
    serve(app, b"GET / HTTP/1.1\r\nX_Api_Key: evil\r\nX-Api-Key: good\r\n\r\n")
    assert app.asked[0]["HTTP_X_API_KEY"] == "good"


def test_a_body_that_comes_later_is_read_when_it_is_asked_for() -> None:
    app = App(b"x", headers=[("Content-Length", "1")])
    head, body = POST[:-5], POST[-5:]
    wire = serve(app, head, body[:2], body[2:], POST)
    assert app.bodies == [b"hello", b"hello"]
    assert len(wire.sent) == 2


def test_headers_behind_a_body_pass_for_none_before_it() -> None:
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    app = App(b"x")
    serve(app, head + b"3\r\nabc\r\n0\r\nAuthorization: Bearer k\r\nX-A: b\r\n\r\n" + POST)
    assert app.bodies == [b"abc", b"hello"]
    assert "HTTP_AUTHORIZATION" not in app.asked[0] and "HTTP_X_A" not in app.asked[0]
    assert app.asked[1]["HTTP_X_REQUEST_ID"] == "7"


def test_who_waits_for_continue_is_told_when_the_body_is_read() -> None:
    head = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    wire = serve(App(b"x"), head, b"ab")
    assert wire.sent[0] == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire = serve(App(b"x", reads=False), head)
    assert not wire.sent[0].startswith(b"HTTP/1.1 100")


def test_a_body_left_unread_is_dropped_and_the_next_request_is_answered() -> None:
    """A client may send head and body apart, and count on the connection it was promised."""
    app = App(b"x", reads=False)
    wire = serve(app, POST[:-5], b"hello" + POST)
    assert len(app.asked) == 2
    assert b"".join(wire.sent).count(b"HTTP/1.1 200 OK") == 2


def test_an_unread_body_without_an_end_costs_the_connection() -> None:
    app = App(b"x", reads=False)
    long = b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n"
    wire = serve(app, long, *[b"x" * 65536] * 20, POST)
    assert len(app.asked) == 1
    assert b"".join(wire.sent).startswith(b"HTTP/1.1 200 OK")


def test_a_body_that_turns_to_garbage_ends_and_no_second_answer_follows() -> None:
    app = App(b"x")
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    wire = serve(app, head, b"3\r\nabc\r\n", b"zz\r\n", POST)
    assert app.bodies == [b"abc"]
    assert b"".join(wire.sent).count(b"HTTP/1.1") == 1


def test_head_and_no_content_have_no_body() -> None:
    head = b"".join(serve(App(b"body"), b"HEAD / HTTP/1.1\r\n\r\n").sent)
    assert head.endswith(b"\r\n\r\n")
    assert b"chunked" not in head
    nothing = b"".join(serve(App(status="204 No Content"), POST).sent)
    assert nothing.endswith(b"keep-alive\r\n\r\n")


def test_an_old_client_gets_bytes_until_the_end() -> None:
    sent = b"".join(serve(App(b"one", b"two"), b"GET / HTTP/1.0\r\n\r\n").sent)
    assert sent.endswith(b"Connection: close\r\n\r\nonetwo")


def test_the_last_request_closes() -> None:
    app = App(b"x", headers=[("Content-Length", "1")])
    wire = serve(app, POST + POST, last=True)
    assert len(app.asked) == 1
    assert b"Connection: close" in wire.sent[0]


def test_an_answer_to_who_will_not_be_read_on_says_that_the_connection_ends() -> None:
    app = App(b"x", headers=[("Content-Length", "1")], reads=False)

    def refuse(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        environ["slotproxy.is_last"]()
        return app(environ, start)

    wire = Wire(POST + POST)
    environ = base_environ(wire, ("127.0.0.1", 80), ("10.0.0.1", 5))
    Connection(wire, refuse, environ).serve(lambda: False)
    assert len(app.asked) == 1
    assert b"Connection: close" in wire.sent[0]


def test_an_upgrade_nobody_offers_is_an_ordinary_request() -> None:
    app = App(b"x", headers=[("Content-Length", "1")])
    upgrade = POST.replace(b"Host: h", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c")
    serve(app, upgrade + POST)
    assert app.bodies == [b"hello", b"hello"]


def test_without_the_upgrade_it_says_all_that_it_said() -> None:
    app = App(b"x", headers=[("Content-Length", "1")])
    said = (
        b"Host: h\r\nContent-Type: t/t\r\nX-A-B: 1\r\nx-a-b: \xe4\r\nX_C: 2\r\nConnection: Upgrade"
    )
    plain = POST.replace(b"Host: h", said)
    serve(app, plain + plain.replace(b"X_C", b"Upgrade: h2c\r\nX_C"))
    ours = ("wsgi.input", "slotproxy.is_last")
    one, other = ({k: v for k, v in asked.items() if k not in ours} for asked in app.asked)
    assert one == other
    assert (one["HTTP_X_A_B"], one["CONTENT_TYPE"]) == ("1,\xe4", "t/t")
    assert app.bodies == [b"hello", b"hello"]


@pytest.mark.parametrize(
    ("status", "name", "value"),
    [
        ("200 OK", "X", "a\r\nSet-Cookie: b"),
        ("200 OK", "X", "a\nSet-Cookie: b"),
        ("200 OK", "X", "a\rSet-Cookie: b"),
        ("200 OK", "X: a\r\nSet-Cookie", "b"),
        ("200 OK\r\nSet-Cookie: b", "X", "a"),
    ],
)
def test_a_header_that_is_two_is_never_sent(status: str, name: str, value: str) -> None:
    with pytest.raises(ValueError, match="end of a line"):
        serve(App(b"x", status=status, headers=[(name, value)]), POST)


@pytest.mark.parametrize("name", ["Content-Length", "content-length", "CONTENT-LENGTH"])
def test_a_length_is_known_however_it_is_written(name: str) -> None:
    assert b"chunked" not in serve(App(b"x", headers=[("A", "b"), (name, "1")]), POST).sent[0]


@pytest.mark.parametrize(
    "header", [("X-Content-Length", "1"), ("X", "content-length: 1"), ("Content-Length-X", "1")]
)
def test_what_only_looks_like_a_length_is_none(header: tuple[str, str]) -> None:
    assert b"chunked" in serve(App(b"x", headers=[header]), POST).sent[0]


def test_what_a_connection_held_goes_with_it() -> None:
    wire = Wire(POST)
    connection = Connection(wire, App(b"x"), base_environ(wire, ("h", 1), ("h", 2)))
    connection.serve(lambda: False)
    seen = weakref.ref(connection)
    gc.disable()
    try:
        del connection
        assert seen() is None
    finally:
        gc.enable()


def test_what_a_request_held_goes_with_it_without_the_collector() -> None:
    class Held:
        pass

    seen: list[weakref.ref[Held]] = []

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        environ["held"] = Held()
        seen.append(weakref.ref(environ["held"]))
        start("200 OK", [("Content-Length", "1")])
        return [b"x"]

    gc.disable()
    try:
        serve(app, POST + POST)
        assert [one() for one in seen] == [None, None]
    finally:
        gc.enable()


def test_the_body_is_closed_when_the_client_is_gone() -> None:
    closed: list[bool] = []

    class Parts:
        def __iter__(self) -> Any:
            yield b"x"

        def close(self) -> None:
            closed.append(True)

    class Gone(Wire):
        def send(self, data: bytes, /) -> int:
            raise BrokenPipeError

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        start("200 OK", [])
        return Parts()

    wire = Gone(POST)
    with pytest.raises(BrokenPipeError):
        Connection(wire, app, base_environ(wire, ("h", 1), ("h", 2))).serve(lambda: False)
    assert closed == [True]
