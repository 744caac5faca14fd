"""The server's side of HTTP/1.1, on a scripted socket."""

from __future__ import annotations

import contextlib
import errno
import gc
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.server import http1, reader
from proxy.server.http1 import (
    MAX_DROPPED,
    Application,
    BodyError,
    BodyTimeout,
    ConnectionLimits,
    Last,
    ServerConnection,
    State,
    base_environ,
)
from proxy.server.reader import MAX_INCOMPLETE, MAX_REPEATS
from tests.thorough import share

POST = (
    b"POST /v1/x%20y?a=b HTTP/1.1\r\nHost: h\r\nX-Request-ID: 7\r\nContent-Length: 5\r\n\r\nhello"
)

HEAD = b"POST / HTTP/1.1\r\nHost: h\r\n"


class ClientSocket:
    """Gives the client's bytes piece by piece, and records each send."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.sent: list[bytes] = []
        self.finished = False

    def recv(self, size: int, /) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def send(self, data: bytes, /) -> None:
        self.sent.append(data)

    def flush(self) -> None:
        pass

    def finish(self) -> None:
        self.finished = True

    def give_way(self) -> None:
        pass


class App:
    """Records its requests; answers with `parts`."""

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
        self.environs: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        self.environs.append(environ)
        if self.reads:
            self.bodies.append(environ["wsgi.input"].read())
        start(self.status, self.headers)
        return iter(self.parts)


def serve(app: Application, *pieces: bytes, last: bool = False) -> ClientSocket:
    wire = ClientSocket(*pieces)
    environ = base_environ(wire, ("127.0.0.1", 80), ("10.0.0.1", 5))
    through(ServerConnection(wire, app, environ), last)
    return wire


def through(connection: ServerConnection, last: bool = False) -> None:
    """Serve the connection to its end, as the worker does."""
    try:
        connection.serve(lambda: last)
    finally:
        connection.linger()


def test_request_becomes_wsgi_environ() -> None:
    app = App(b"out")
    serve(app, POST)
    (environ,) = app.environs
    assert environ["REQUEST_METHOD"] == "POST"
    assert environ["PATH_INFO"] == "/v1/x y"
    assert environ["QUERY_STRING"] == "a=b"
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert environ["HTTP_X_REQUEST_ID"] == "7"
    assert environ["CONTENT_LENGTH"] == "5"
    assert environ["REMOTE_ADDR"] == "10.0.0.1"
    assert app.bodies == [b"hello"]


def test_head_is_sent_with_first_bytes_and_chunk_with_its_frame() -> None:
    sent = serve(App(b"one", b"two"), POST).sent
    assert sent[0].startswith(b"HTTP/1.1 200 OK\r\nContent-Type: t\r\nDate: ")
    assert sent[0].endswith(b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
    assert sent[1:] == [b"3\r\ntwo\r\n", b"0\r\n\r\n"]


def test_end_of_body_is_sent_with_its_last_part() -> None:
    served = serve(App(b"one", Last(b"two")), POST + POST)
    assert [sent for sent in served.sent if not sent.startswith(b"HTTP/")] == [
        b"3\r\ntwo\r\n0\r\n\r\n"
    ] * 2


@settings(max_examples=share(50))
@given(st.lists(st.integers(1, 4 * len(POST)), max_size=8))
def test_requests_parse_the_same_however_split(cuts: list[int]) -> None:
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    data = POST + chunked + b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" + POST
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    pieces = [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    app = App(b"x", headers=[("Content-Length", "1")])
    wire = serve(app, *pieces)
    assert app.bodies == [b"hello", b"abcde", b"", b"hello"]
    assert b"".join(wire.sent).count(b"HTTP/1.1 200 OK") == 4


def test_underscores_cannot_impersonate_a_header_but_a_session_id_has_one() -> None:
    app = App(b"x")
    head = b"GET / HTTP/1.1\r\nHost: h\r\nX_Api_Key: evil\r\nX-Api-Key: good\r\n"
    serve(app, head + b"session_id: s\r\n\r\n")
    assert app.environs[0]["HTTP_X_API_KEY"] == "good"
    assert app.environs[0]["HTTP_SESSION_ID"] == "s"


def test_trailers_are_not_taken_for_headers() -> None:
    head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    app = App(b"x")
    serve(app, head + b"3\r\nabc\r\n0\r\nAuthorization: Bearer k\r\nX-A: b\r\n\r\n" + POST)
    assert app.bodies == [b"abc", b"hello"]
    assert "HTTP_AUTHORIZATION" not in app.environs[0] and "HTTP_X_A" not in app.environs[0]
    assert app.environs[1]["HTTP_X_REQUEST_ID"] == "7"


def test_continue_is_sent_when_the_body_is_read() -> None:
    head = b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    wire = serve(App(b"x"), head, b"ab")
    assert wire.sent[0] == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire = serve(App(b"x", reads=False), head)
    assert not wire.sent[0].startswith(b"HTTP/1.1 100")


def test_garbage_in_body_ends_it_without_a_second_answer() -> None:
    app = App(b"x")
    head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    wire = ClientSocket(head, b"3\r\nabc\r\n", b"zz\r\n", POST)
    with pytest.raises(BodyError):
        ServerConnection(wire, app, base_environ(wire, ("h", 1), ("h", 2))).serve(lambda: False)
    assert app.bodies == wire.sent == []


@pytest.mark.parametrize("body", [b"Content-Length: 9", b"Transfer-Encoding: chunked"])
def test_truncated_body_is_never_taken_for_complete(body: bytes) -> None:
    app = App(b"x")
    wire = ClientSocket(b"POST / HTTP/1.1\r\nHost: h\r\n%b\r\n\r\n" % body, b"3\r\nabc\r\n")
    with pytest.raises(BodyError):
        ServerConnection(wire, app, base_environ(wire, ("h", 1), ("h", 2))).serve(lambda: False)
    assert app.bodies == []


def test_head_and_no_content_have_no_body() -> None:
    head = b"".join(serve(App(b"body"), b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n").sent)
    assert head.endswith(b"\r\n\r\n")
    assert b"chunked" not in head
    nothing = b"".join(serve(App(status="204 No Content"), POST).sent)
    assert nothing.endswith(b"keep-alive\r\n\r\n")


def test_http_1_0_client_gets_body_until_close() -> None:
    sent = b"".join(serve(App(b"one", b"two"), b"GET / HTTP/1.0\r\n\r\n").sent)
    assert sent.endswith(b"Connection: close\r\n\r\nonetwo")


def test_last_request_closes_the_connection() -> None:
    app = App(b"x", headers=[("Content-Length", "1")])
    wire = serve(app, POST + POST, last=True)
    assert len(app.environs) == 1
    assert b"Connection: close" in wire.sent[0]


def test_last_answer_announces_that_the_connection_closes() -> None:
    app = App(b"x", headers=[("Content-Length", "1")], reads=False)

    def refuse(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        environ["slotproxy.is_last"]()
        return app(environ, start)

    wire = ClientSocket(POST + POST)
    environ = base_environ(wire, ("127.0.0.1", 80), ("10.0.0.1", 5))
    ServerConnection(wire, refuse, environ).serve(lambda: False)
    assert len(app.environs) == 1
    assert b"Connection: close" in wire.sent[0]


def test_request_with_ignored_upgrade_keeps_its_other_headers() -> None:
    app = App(b"x", headers=[("Content-Length", "1")])
    said = (
        b"Host: h\r\nContent-Type: t/t\r\nX-A-B: 1\r\nx-a-b: \xe4\r\nX_C: 2\r\nConnection: Upgrade"
    )
    plain = POST.replace(b"Host: h", said)
    serve(app, plain + plain.replace(b"X_C", b"Upgrade: h2c\r\nX_C"))
    ours = ("wsgi.input", "slotproxy.is_last")
    first, other = ({k: v for k, v in environ.items() if k not in ours} for environ in app.environs)
    assert first == other
    assert (first["HTTP_X_A_B"], first["CONTENT_TYPE"]) == ("1,\xe4", "t/t")
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
def test_response_header_with_line_break_is_never_sent(status: str, name: str, value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        serve(App(b"x", status=status, headers=[(name, value)]), POST)


@pytest.mark.parametrize("name", ["Content-Length", "content-length", "CONTENT-LENGTH"])
def test_content_length_is_recognized_in_any_spelling(name: str) -> None:
    assert b"chunked" not in serve(App(b"x", headers=[("A", "b"), (name, "1")]), POST).sent[0]


@pytest.mark.parametrize(
    "header", [("X-Content-Length", "1"), ("X", "content-length: 1"), ("Content-Length-X", "1")]
)
def test_malformed_content_length_is_ignored(header: tuple[str, str]) -> None:
    assert b"chunked" in serve(App(b"x", headers=[header]), POST).sent[0]


def test_finished_request_releases_its_objects_without_gc() -> None:
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
        assert [ref() for ref in seen] == [None, None]
    finally:
        gc.enable()


def test_response_body_is_closed_when_the_client_leaves() -> None:
    closed: list[bool] = []

    class Parts:
        def __iter__(self) -> Any:
            yield b"x"

        def close(self) -> None:
            closed.append(True)

    class Gone(ClientSocket):
        def send(self, data: bytes, /) -> None:
            raise BrokenPipeError

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        start("200 OK", [])
        return Parts()

    wire = Gone(POST)
    with pytest.raises(BrokenPipeError):
        ServerConnection(wire, app, base_environ(wire, ("h", 1), ("h", 2))).serve(lambda: False)
    assert closed == [True]


def bytewise(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


# -- refusals --------------------------------------------------------------------------------------


def status(wire: ClientSocket) -> bytes:
    """The status of the last answer, b"" if there is none."""
    answers = [sent for sent in wire.sent if sent.startswith(b"HTTP/1.1")]
    return answers[-1][9:12] if answers else b""


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"GET http://[ HTTP/1.1\r\nHost: h\r\n\r\n", b"400"),
        (b"GET http://[::1 HTTP/1.1\r\nHost: h\r\n\r\n", b"400"),
        (b"GET http:// HTTP/1.1\r\nHost: h\r\n\r\n", b"400"),
        (b"GET http:///a HTTP/1.1\r\nHost: h\r\n\r\n", b"400"),
        (b"GET http://u@h/a HTTP/1.1\r\nHost: h\r\n\r\n", b"400"),
        (b"GET ftp://h/a HTTP/1.1\r\nHost: h\r\n\r\n", b"400"),
        (b"GET * HTTP/1.1\r\nHost: h\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: u@h\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: h/path\r\n\r\n", b"400"),
        (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", b"400"),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", b"501"),
        (
            HEAD + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"501",
        ),
        (HEAD.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", b"505"),
        (b"GET / HTTP/0.9\r\nHost: h\r\n\r\n", b"505"),
        (b"GET / HTTP/1.2\r\nHost: h\r\n\r\n", b"400"),
        (b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n", b"400"),
        (HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", b"400"),
        (HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", b"400"),
        (HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", b"400"),
        (HEAD + b"Content-Length: +3\r\n\r\nabc", b"400"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\nY: b\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: h\r\n X: folded\r\n\r\n", b"400"),
        (b"GARBAGE\r\n\r\n", b"400"),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_malformed_requests_are_refused(data: bytes, expected: bytes, whole: bool) -> None:
    app = App(b"x", headers=[("Content-Length", "1")])
    wire = serve(app, *([data] if whole else bytewise(data)), POST)
    assert status(wire) == expected
    assert app.environs == []
    assert b"Connection: close" in wire.sent[-1]


@pytest.mark.parametrize("whole", [True, False])
def test_requests_before_a_refused_one_are_answered(whole: bool) -> None:
    data = POST + b"GET http://[ HTTP/1.1\r\nHost: h\r\n\r\n" + POST
    app = App(b"x", headers=[("Content-Length", "1")])
    wire = serve(app, *([data] if whole else bytewise(data)))
    assert app.bodies == [b"hello"]
    assert [sent[9:12] for sent in wire.sent] == [b"200", b"400"]


@pytest.mark.parametrize(
    ("target", "path", "query", "host"),
    [
        (b"http://a.example:80/b%20c?d", "/b c", "d", "a.example:80"),
        (b"HTTPS://[::1]:8/", "/", "", "[::1]:8"),
        (b"http://a", "/", "", "a"),
        (b"http://a?d", "/", "d", "a"),
        (b"//a/b", "//a/b", "", "h"),
    ],
)
def test_absolute_request_target_sets_the_host(
    target: bytes, path: str, query: str, host: str
) -> None:
    app = App(b"x")
    serve(app, b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % target)
    (environ,) = app.environs
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == (path, query)
    assert environ["HTTP_HOST"] == host


def test_options_accepts_asterisk_target() -> None:
    app = App(b"x")
    serve(app, b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n")
    assert app.environs[0]["PATH_INFO"] == "*"


def test_hundreds_of_upgrades_in_one_read_are_ordinary_requests() -> None:
    upgrade = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: a\r\n\r\n"
    count = 61_000 // len(upgrade)
    app = App(b"x", headers=[("Content-Length", "1")])
    wire = serve(app, upgrade * count)
    assert len(app.environs) == len(wire.sent) == count


# -- bounds, at their limits -----------------------------------------------------------------------


def cut(data: bytes, piece: int) -> list[bytes]:
    """Pieces of this size, the last hundred bytes one by one."""
    head, tail = data[:-100], data[-100:]
    return [head[at : at + piece] for at in range(0, len(head), piece)] + bytewise(tail)


def padded(before: bytes, after: bytes, size: int) -> bytes:
    """`size` bytes with this start and end."""
    return before + b"a" * (size - len(before) - len(after)) + after


@pytest.mark.parametrize(("size", "fits"), [(MAX_INCOMPLETE, True), (MAX_INCOMPLETE + 1, False)])
@pytest.mark.parametrize("piece", [61, 4096, 1 << 20])
@pytest.mark.parametrize(
    "before", [b"GET / HTTP/1.1\r\nHost: h\r\nX: ", b"GET /", b"GET / HTTP/1.1\r\nHost: h\r\nX"]
)
def test_request_head_size_is_bounded(size: int, fits: bool, piece: int, before: bytes) -> None:
    after = {b"GET /": b" HTTP/1.1\r\nHost: h\r\n\r\n"}.get(before, b"\r\n\r\n")
    after = b": y" + after if before.endswith(b"\r\nX") else after
    data = padded(before, after, size)
    app = App(b"x", headers=[("Content-Length", "1")])
    assert status(serve(app, *cut(data, piece))) == (b"200" if fits else b"431")


def test_blank_lines_before_a_request_count_towards_the_head_bound() -> None:
    app = App(b"x", headers=[("Content-Length", "1")])
    get = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    blank = MAX_INCOMPLETE - len(get)
    lines = b"\r\n" * (blank // 2)
    assert status(serve(app, lines, get)) == b"200"
    assert status(serve(app, lines + b"\r\n" * 2, get)) == b"431"
    assert status(serve(app, *[b"\r\n" * 30_000] * 10)) == b"431"


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "trailer value": (b"0\r\nX-A: ", b"\r\n\r\n"),
    "trailer name": (b"0\r\nX", b": y\r\n\r\n"),
    "chunk extension": (b"0;", b"\r\n\r\n"),
    "extension value": (b"0;a=", b"\r\n\r\n"),
    "extension of a later chunk": (b"1\r\nz\r\n0;a=", b"\r\n\r\n"),
}


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("piece", [61, 1 << 20])
@pytest.mark.parametrize("kind", ENDLESS)
def test_chunk_extensions_and_trailers_have_the_head_bound(
    kind: str, piece: int, reads: bool
) -> None:
    """Also when the application answers without reading the body, as with a 401."""
    before, after = ENDLESS[kind]
    begun, _, rest = before.rpartition(b"z\r\n")
    first = CHUNKED + begun + (b"z" if begun else b"")
    rest = b"\r\n" + rest if begun else rest

    def served(size: int) -> App:
        data = padded(rest, after, size)
        app = App(b"x", headers=[("Content-Length", "1")], reads=reads)
        with contextlib.suppress(BodyError):
            serve(app, first, *cut(data, piece), POST)
        return app

    assert len(served(MAX_INCOMPLETE).environs) == 2
    assert len(served(MAX_INCOMPLETE + 1).environs) == 1


def test_leading_zeros_of_chunk_size_have_the_head_bound() -> None:
    app = App(b"x")
    with pytest.raises(BodyError):
        serve(app, CHUNKED, *[b"0" * 9000] * 100)


@pytest.mark.parametrize("last", [True, False])
def test_bytes_discarded_before_closing_are_bounded(
    last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client learns first that no more data follows."""
    monkeypatch.setattr(http1, "MAX_LINGERED", 10 * 65536)
    data = POST if last else HEAD + b"Content-Length: %d\r\n\r\n" % (1 << 30)
    wire = ClientSocket(data, *[b"x" * 65536] * 100)
    app = App(b"x", headers=[("Content-Length", "1")], reads=False)
    through(ServerConnection(wire, app, base_environ(wire, ("h", 1), ("h", 2))), last)
    assert wire.finished
    assert 100 - len(wire.pieces) == 10 + (0 if last else MAX_DROPPED // 65536)


@pytest.mark.parametrize("breaks", ["iteration", "close"])
def test_failure_after_a_whole_answer_spares_the_next_request(
    breaks: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The client has the answer, and its next request may have arrived already."""

    class Breaking:
        def __iter__(self) -> Iterator[bytes]:
            yield Last(b"x")
            if breaks == "iteration":
                raise ConnectionResetError(errno.ECONNRESET, "of a backend")

        def close(self) -> None:
            if breaks == "close":
                raise AssertionError("a defect")

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        start("200 OK", [])
        return Breaking()

    wire = serve(app, POST, POST)
    assert b"".join(wire.sent).count(b"HTTP/1.1 200 OK") == 2
    assert caplog.text.count("failed after the whole answer") == 2


@pytest.mark.parametrize(("size", "is_kept"), [(MAX_DROPPED, True), (MAX_DROPPED + 1, False)])
def test_discarded_body_size_is_bounded(size: int, is_kept: bool) -> None:
    app = App(b"x", headers=[("Content-Length", "1")], reads=False)
    pieces = [b"x" * 65536] * (size // 65536) + [b"x" * (size % 65536)] * (size % 65536 > 0)
    serve(app, HEAD + b"Content-Length: %d\r\n\r\n" % size, *pieces, POST)
    assert len(app.environs) == (2 if is_kept else 1)


def test_header_repetitions_are_bounded() -> None:
    def status_of(times: int) -> bytes:
        app = App(b"x", headers=[("Content-Length", "1")])
        return status(serve(app, HEAD + b"a: b\r\n" * (times + 1) + b"\r\n"))

    assert status_of(MAX_REPEATS) == b"200"
    assert status_of(MAX_REPEATS + 1) == b"431"


# -- states and deadlines --------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"HTTP/1.1 " * 2000])
def test_requests_parsed_ahead_of_their_answers_are_bounded(body: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body)
    flood = b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n"
    data = head + body + b"".join(flood % number for number in range(2000))
    parsed: list[int] = []

    class Counting(App):
        def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            parsed.append(len(connection._reader.requests))
            return super().__call__(environ, start)

    app = Counting(b"x")
    wire = ClientSocket(*cut(data, 65536))
    environ = base_environ(wire, ("127.0.0.1", 80), ("10.0.0.1", 5))
    connection = ServerConnection(wire, app, environ)
    connection.serve(lambda: False)
    assert [seen["PATH_INFO"] for seen in app.environs] == ["/", *(f"/{n}" for n in range(2000))]
    assert app.bodies == [body] + [b""] * 2000
    assert max(parsed) < 4 * reader.MAX_PIPELINED


class Ticking(ClientSocket):
    """Has a clock with the times `at`, one per read, and expires its connection when overdue."""

    def __init__(self, *pieces: bytes, at: Iterable[float] = ()) -> None:
        super().__init__(*pieces)
        self.at = list(at)
        self.now = 0.0
        self.seen: list[State] = []
        self.connection: ServerConnection | None = None

    def recv(self, size: int, /) -> bytes:
        assert self.connection is not None
        self.seen.append(self.connection.state)
        self.now = self.at.pop(0) if self.at else self.now
        if self.connection.overdue(self.now):
            self.connection.expire()
        return super().recv(size)

    def serve(self, app: App, limits: ConnectionLimits = ConnectionLimits()) -> None:  # noqa: B008
        environ = base_environ(self, ("h", 1), ("h", 2))
        self.connection = ServerConnection(self, app, environ, limits, lambda: self.now)
        through(self.connection)


LIMITS = ConnectionLimits(idle=75, head=30, body=60, body_rate=100, dropping=10)


UPGRADE = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n"


def test_connection_that_waits_for_a_websocket_is_never_overdue() -> None:
    def app(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        environ["slotproxy.waits"](True)
        assert wire.connection is not None
        assert wire.connection.state is State.UPGRADED
        assert not wire.connection.overdue(10_000.0)
        environ["slotproxy.waits"](False)
        start("200 OK", [("Content-Length", "1")])
        return [b"x"]

    wire = Ticking(UPGRADE)
    wire.serve(app)  # type: ignore[arg-type]
    assert wire.sent


@pytest.mark.parametrize(("at", "expired"), [(75.0, False), (75.5, True)])
def test_idle_connection_expires_without_answer(at: float, expired: bool) -> None:
    wire = Ticking(at=[at])
    wire.serve(App(b"x"), LIMITS)
    assert wire.sent == []
    assert wire.connection is not None and wire.connection.expired is expired


def test_request_arriving_at_expiry_is_the_last() -> None:
    app = App(b"x", headers=[("Content-Length", "1")])
    wire = Ticking(POST, POST, at=[75.5])
    wire.serve(app, LIMITS)
    assert len(app.environs) == 1
    assert b"Connection: close" in wire.sent[0]


@pytest.mark.parametrize(("at", "expected"), [(30.0, b"200"), (30.5, b"408")])
def test_request_head_has_a_deadline(at: float, expected: bytes) -> None:
    app = App(b"x", headers=[("Content-Length", "1")])
    wire = Ticking(POST[:5], POST[5:20], POST[20:], at=[0, 29, at])
    wire.serve(app, LIMITS)
    assert status(wire) == expected


@pytest.mark.parametrize(("at", "whole"), [(60.0, True), (60.5, False)])
def test_request_body_has_a_deadline(at: float, whole: bool) -> None:
    app = App(b"x", headers=[("Content-Length", "1")])
    wire = Ticking(POST[:-5], POST[-5:], at=[0, at])
    if whole:
        wire.serve(app, LIMITS)
        assert app.bodies == [b"hello"]
    else:
        with pytest.raises(BodyTimeout):
            wire.serve(app, LIMITS)


def test_body_deadline_grows_with_received_bytes() -> None:
    head = HEAD + b"Content-Length: 100000\r\n\r\n"
    app = App(b"x", headers=[("Content-Length", "1")])
    steady = [float(second) for second in range(1001)]
    Ticking(head, *[b"x" * 100] * 1000, at=steady).serve(app, LIMITS)
    assert len(app.bodies[0]) == 100_000
    with pytest.raises(BodyTimeout):
        Ticking(head, *[b"x" * 50] * 2000, at=steady).serve(app, LIMITS)


@pytest.mark.parametrize(("at", "requests"), [(10.0, 2), (10.5, 1)])
def test_discarding_after_the_answer_has_a_deadline(at: float, requests: int) -> None:
    app = App(b"x", headers=[("Content-Length", "1")], reads=False)
    wire = Ticking(POST[:-5], b"h", b"e", b"llo", POST, at=[0, 0, 1, at])
    wire.serve(app, LIMITS)
    assert len(app.environs) == requests


def test_time_before_closing_has_a_deadline() -> None:
    connection = ServerConnection(ClientSocket(), App(), {}, LIMITS, lambda: 0.0)
    connection.state = State.LINGERING
    assert [connection.overdue(at) for at in (10.0, 10.5)] == [False, True]
    connection.expire()  # the client was late already
    assert connection.overdue(1.0)
