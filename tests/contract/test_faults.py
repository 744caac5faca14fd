"""Every driver against every fault of a backend.

A fault is a script for one connection, made of the frames of a form: server.cpp of 2023, today's
llama-server, and its chat by the native relay. Each must end in the error named here, or in an
answer that is as whole as it can be; in time, and without an address in any message.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import pytest
from msgspec import Struct

from proxy.backends.driver import Capabilities
from proxy.backends.llamacpp import LlamaCpp
from proxy.core.events import Event, Finished, ReasoningDelta, Started, TextDelta
from proxy.core.request import CompletionRequest, Message
from proxy.core.task import Task
from proxy.errors import (
    BackendBusy,
    BackendDown,
    BackendFailed,
    BadRequest,
    GatewayError,
    UpstreamFault,
    UpstreamTimeout,
)
from proxy.runtime.cancel import Cancel
from tests.unit.backends.rawserver import LAST_CHUNK, RawServer, chunk, hang_up, head, reset

LIMIT = 5
SOON = (0.6, 0.1)  # seconds of silence until a fault, and until a tick
LATE = (60.0, 0.5)  # the same where something else must end the run first
KEY = "key-of-the-backend-4711"
MODERN = Capabilities(
    dialect="llama-server",
    slot_field="id_slot",
    queues=True,
    truncates=False,
    modern_sampling=True,
    chat=True,
)


def frame(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


class Form(Struct, frozen=True):
    """The wire format of a kind of backend."""

    name: str
    caps: Capabilities
    native: bool = False

    def piece(self, content: Any = "a", number: int = 0, **more: Any) -> bytes:
        """One token; `more` are fields of the event."""
        if self.native:
            return frame({"choices": [{"index": 0, "delta": {"content": content}}], **more})
        if self.caps.queues:
            counts = {"tokens_predicted": number, "tokens_evaluated": 6} if number else {}
            return frame({"content": content, "stop": False, "id_slot": -1, **counts, **more})
        return frame({"content": content, "stop": False, "slot_id": 1, **more})

    def last(self, **more: Any) -> bytes:
        if self.native:
            end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], **more}
            return frame(end) + b"data: [DONE]\n\n"
        counts = {"tokens_evaluated": 6, "tokens_predicted": 2}
        if self.caps.queues:
            how: dict[str, Any] = {"id_slot": 1, "stop_type": "eos"}
        else:
            how = {"slot_id": 1, "stopped_eos": True}
        return frame({"content": "", "stop": True, **counts, **how, **more})

    def task(self, stream: bool) -> Task:
        request = CompletionRequest(messages=(Message(role="user", content="Hi"),), stream=stream)
        return Task(prompt="Hi", max_tokens=LIMIT, backend_templates=self.native, request=request)


FORMS = (
    Form("2023", Capabilities(dialect="2023")),
    Form("llama-server", MODERN),
    Form("relay", MODERN, native=True),
)

Play = Callable[[socket.socket, Form], None]


class Ends(Struct, frozen=True):
    """The required end of a run: an error, or Finished with this reason, after `text`."""

    error: type[GatewayError] | None = None
    reason: str = "stop"
    text: str | None = None
    message: str = ""  # a part of it


def send(*parts: bytes) -> Play:
    """Sends these bytes and closes the connection."""

    def play(sock: socket.socket, _: Form) -> None:
        sock.sendall(b"".join(parts))
        hang_up(sock)

    return play


def events(make: Callable[[Form], Sequence[bytes]], end: bytes = LAST_CHUNK) -> Play:
    """A stream of these frames, each sent separately."""

    def play(sock: socket.socket, form: Form) -> None:
        sock.sendall(head(None))
        for part in make(form):
            sock.sendall(chunk(part))
        sock.sendall(end)
        if not end:
            hang_up(sock)

    return play


def together(make: Callable[[Form], Sequence[bytes]]) -> Play:
    """A stream of these frames, all in one chunk."""
    return events(lambda form: [b"".join(make(form))])


def status(line: str, body: Any) -> Play:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return send(head(len(data), line) + data)


def endless(first: Callable[[Form], bytes], more: Callable[[Form, int], bytes]) -> Play:
    """Endless bytes, until the other side closes the connection or a long time has passed."""

    def play(sock: socket.socket, form: Form) -> None:
        end = time.monotonic() + 60
        with contextlib.suppress(OSError):
            sock.sendall(first(form))
            for number in range(1, 1 << 30):
                if time.monotonic() > end:
                    break
                sock.sendall(more(form, number))
        hang_up(sock)

    return play


def slowly(first: Callable[[Form], bytes], drop: bytes, pause: float = 0.02) -> Play:
    """Sends `drop` at intervals, so that the connection is never silent."""

    def play(sock: socket.socket, form: Form) -> None:
        end = time.monotonic() + 60
        with contextlib.suppress(OSError):
            sock.sendall(first(form))
            while time.monotonic() < end:
                sock.sendall(drop)
                time.sleep(pause)
        hang_up(sock)

    return play


def silent(make: Callable[[Form], bytes]) -> Play:
    """Some bytes, and then nothing."""
    return lambda sock, form: sock.sendall(make(form))


def head_in_pieces(sock: socket.socket, form: Form) -> None:
    """The head in 41 segments without silence between them."""
    data = head(None)
    size = -(-len(data) // 41)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for at in range(0, len(data), size):
        sock.sendall(data[at : at + size])
        time.sleep(0.005)
    sock.sendall(chunk(form.piece("ab")) + chunk(form.last()) + LAST_CHUNK)


def json_error(code: Any, **more: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": "no good", "type": "some_error", **more}}


def begun(form: Form) -> bytes:
    return head(None) + chunk(form.piece("a"))


DEEP = b"[" * 100_000 + b"]" * 100_000
DEAR = b'data: {"completion_probabilities":[' + b"1.5e300," * 20_000 + b"1]}\n\n"
OK = Ends(text="ab")
REFUSED = Ends(BadRequest, message="no good")

FAULTS: dict[str, tuple[Play, Ends]] = {
    # refused
    "hangs up before a byte": (lambda sock, _: hang_up(sock), Ends(BackendDown)),
    "resets before a byte": (lambda sock, _: reset(sock), Ends(BackendDown)),
    # cut
    "cut in the head": (send(b"HTTP/1.1 200 OK\r\nContent-"), Ends(UpstreamFault)),
    "cut behind a piece": (events(lambda f: [f.piece()], b""), Ends(UpstreamFault, text="a")),
    "ends without a last event": (events(lambda f: [f.piece()]), Ends(UpstreamFault, text="a")),
    "ends in an event": (
        events(lambda f: [f.piece(), f.piece()[:9]]),
        Ends(UpstreamFault, text="a"),
    ),
    # garbage
    "no HTTP": (send(b"SSH-2.0-OpenSSH_9.6\r\n"), Ends(UpstreamFault)),
    "another protocol": (
        send(head(0, "101 Switching Protocols", "Upgrade: x\r\nConnection: Upgrade\r\n")),
        Ends(UpstreamFault),
    ),
    "no chunks": (send(head(None) + b"zz\r\n"), Ends(UpstreamFault)),
    "no JSON": (events(lambda f: [f.piece(), b"data: no\n\n"]), Ends(UpstreamFault, text="a")),
    "no JSON behind a piece at once": (
        together(lambda f: [f.piece(), f.piece("b"), b"data: no\n\n"]),
        Ends(UpstreamFault, text="ab"),
    ),
    "no object": (events(lambda f: [f.piece(), b"data: [1]\n\n"]), Ends(UpstreamFault, text="a")),
    "text that is none": (
        events(lambda f: [f.piece(), f.piece(["b"])]),
        Ends(UpstreamFault, text="a"),
    ),
    "nested without end": (
        events(lambda f: [f.piece(), b"data: " + DEEP + b"\n\n"]),
        Ends(UpstreamFault, text="a"),
    ),
    "dear to decode": (
        events(lambda f: [f.piece(), DEAR, f.last()]),
        Ends(UpstreamFault, text="a"),
    ),
    # silence
    "silent at once": (silent(lambda _: b""), Ends(UpstreamTimeout)),
    "silent in the head": (silent(lambda _: b"HTTP/1.1 200 OK\r\n"), Ends(UpstreamTimeout)),
    "silent behind the head": (silent(lambda _: head(None)), Ends(UpstreamTimeout)),
    "silent behind a piece": (silent(begun), Ends(UpstreamTimeout, text="a")),
    "a head that drips": (slowly(lambda _: b"HTTP/1.1 200 OK\r\nX: ", b"x"), Ends(UpstreamTimeout)),
    "comments alone": (slowly(begun, chunk(b":\n\n")), Ends(UpstreamTimeout, text="a")),
    "an event that drips": (
        slowly(lambda f: begun(f) + chunk(b"data: "), chunk(b" ")),
        Ends(UpstreamTimeout, text="a"),
    ),
    # busy
    "busy: 404 in plain text": (status("404 Not Found", b"File Not Found"), Ends(BackendBusy)),
    "busy: 404 with nothing": (status("404 Not Found", b""), Ends(BackendBusy)),
    "busy: an empty 200": (events(lambda _: []), Ends(BackendBusy)),
    "busy: a line of an error": (
        events(lambda _: [b'error: {"content":"slot unavailable"}\n\n']),
        Ends(BackendBusy),
    ),
    "busy: 429": (status("429 Too Many Requests", json_error(429)), Ends(BackendBusy)),
    # a status
    "400": (status("400 Bad Request", json_error(400)), REFUSED),
    "400 with a key and an address": (
        status("400 Bad Request", f"no good: {KEY} at http://127.0.0.1:8080/x".encode()),
        REFUSED,
    ),
    "401": (status("401 Unauthorized", json_error(401)), Ends(UpstreamFault, message="API key")),
    "a redirect": (status("302 Found", b""), Ends(UpstreamFault, message="redirect")),
    # an error in the stream
    "an old error line": (
        together(lambda f: [f.piece(), b'error: {"content":"it broke"}\n\n']),
        Ends(BackendFailed, text="a"),
    ),
    "an error line without its end": (
        events(lambda f: [f.piece(), b'error: {"content":"it broke"}\n']),
        Ends(BackendFailed, text="a"),
    ),
    "an error as data": (
        together(lambda f: [f.piece(), f.piece("b"), frame(json_error(500))]),
        Ends(BackendFailed, text="ab"),
    ),
    "an error as data behind all tokens": (
        events(lambda f: [f.piece()] * LIMIT + [frame(json_error(500))]),
        Ends(BackendFailed, text="a" * LIMIT),
    ),
    "an event of the name error": (
        events(lambda f: [f.piece(), b"event: error\n" + frame(json_error(500))]),
        Ends(BackendFailed, text="a"),
    ),
    "an error that is the request's": (
        events(lambda _: [frame(json_error(400))]),
        Ends(BadRequest, message="no good"),
    ),
    # unusual but harmless
    "a byte that is no UTF-8": (
        together(lambda f: [f.piece("aXc").replace(b"X", b"\xff"), f.piece("d"), f.last()]),
        Ends(text="a\ufffdcd"),
    ),
    "a byte that is no UTF-8 among many": (
        together(
            lambda f: [f.piece(), f.piece("X").replace(b"X", b"\xc3"), f.piece("c") + f.last()]
        ),
        Ends(text="a\ufffdc"),
    ),
    "half of a pair": (
        events(lambda f: [f.piece("aXc").replace(b"X", b"\\ud83d"), f.last()]),
        Ends(text="a\ufffdc"),
    ),
    "no text": (events(lambda f: [f.piece(), f.piece(None), f.piece("b"), f.last()]), OK),
    "no number": (
        events(
            lambda f: [
                f.piece(timings={"prompt_ms": "x"}, tokens_evaluated=None, usage=[]),
                f.piece("b", timings=5, prompt_progress="x", completion_probabilities={}),
                f.last(timings={"prompt_n": 1.5}, stopping_word=None, truncated="x"),
            ]
        ),
        OK,
    ),
    "NaN": (
        events(lambda f: [f.piece(timings={"prompt_ms": float("nan")}), f.piece("b"), f.last()]),
        OK,
    ),
    "a head in 41 segments": (head_in_pieces, OK),
    "more tokens and an end, all at once": (
        together(lambda f: [f.piece()] * (LIMIT + 90) + [f.last()]),
        Ends(reason="length"),
    ),
    # without end
    "more tokens than were asked for": (
        endless(lambda _: head(None), lambda f, n: chunk(f.piece("a", n))),
        Ends(reason="length"),
    ),
    "tokens of no text": (
        endless(lambda _: head(None), lambda f, n: chunk(f.piece("", n))),
        Ends(reason="length", text=""),
    ),
    "more text than tokens hold": (
        endless(lambda _: head(None), lambda f, n: chunk(f.piece("a" * (1 << 16)))),
        Ends(UpstreamFault),
    ),
    "an event without end": (
        endless(
            lambda _: head(None) + chunk(b'data: {"x": "'), lambda f, n: chunk(b"a" * (1 << 18))
        ),
        Ends(UpstreamFault),
    ),
    "a head without end": (
        endless(lambda _: b"HTTP/1.1 200 OK\r\nX: ", lambda f, n: b"a" * (1 << 16)),
        Ends(UpstreamFault),
    ),
    "a refusal without end": (
        endless(lambda _: head(None, "500 Oh"), lambda f, n: chunk(b"a" * (1 << 16))),
        Ends(UpstreamFault),
    ),
    "trailers without end": (
        endless(
            lambda f: head(None) + chunk(f.piece("ab")) + chunk(f.last()) + b"0\r\nX: ",
            lambda f, n: b"a" * (1 << 12),
        ),
        OK,
    ),
    "trailers that drip": (
        slowly(
            lambda f: head(None) + chunk(f.piece("ab")) + chunk(f.last()) + b"0\r\nX: ", b"a", 0.005
        ),
        OK,
    ),
    "trailers without end in place of an end": (
        endless(lambda f: begun(f) + b"0\r\nX: ", lambda f, n: b"a" * (1 << 12)),
        Ends(UpstreamFault, text="a"),
    ),
}


def play(
    form: Form,
    script: Play,
    stream: bool,
    patience: tuple[float, float],
    text_comes: bool = False,
) -> tuple[list[Event], GatewayError | None]:
    timeout, tick = patience
    with RawServer([lambda sock: script(sock, form)]) as server:
        driver = LlamaCpp(server.url, timeout=LATE[0], tick=tick, api_key=KEY)
        said: list[Event] = []
        began = time.monotonic()
        run = None
        try:
            run = driver.stream(form.task(stream), 1, form.caps, Cancel())
            for batch in chain([[]], run):
                said += batch
                if said or not text_comes:  # a busy machine may take long to send the text
                    run._exchange._pool.timeout = timeout  # type: ignore[attr-defined]
            return said, None
        except GatewayError as error:
            return said, error
        finally:
            if run is not None:
                run.close()
            driver.close()
            assert time.monotonic() - began < 40, "it was not ended in time"
            assert server.closed[0].wait(60), "the backend never learned of the end"


# Silence takes long, and is the same for both.
CASES = [
    pytest.param(fault, stream, id=f"{fault}-{'streamed' if stream else 'whole'}")
    for fault, (_, ends) in FAULTS.items()
    for stream in (True, False)
    if stream or ends.error is not UpstreamTimeout
]


# These mean busy on an old server alone.
NEVER_BUSY = {"busy: an empty 200": Ends(UpstreamFault)}


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "stream"), CASES)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_every_driver_survives_every_fault(form: Form, fault: str, stream: bool) -> None:
    script, ends = FAULTS[fault]
    if form.caps.queues:
        ends = NEVER_BUSY.get(fault, ends)
    patience = SOON if ends.error is UpstreamTimeout else LATE
    said, error = play(form, script, stream, patience, bool(ends.text))
    text = "".join(e.text for e in said if isinstance(e, (TextDelta, ReasoningDelta)))
    if ends.error is not None:
        assert isinstance(error, ends.error), (error, getattr(error, "detail", ""))
        if ends.error is UpstreamFault:
            assert not isinstance(error, (BackendBusy, BackendDown)), error.detail
        assert ends.message in error.message
        assert not any(isinstance(e, Finished) for e in said)
        for hidden in ("127.0.0.1", KEY, "http://"):
            assert hidden not in error.message
            assert KEY not in error.detail
    else:
        assert error is None, (error, error.detail)
        assert isinstance(said[0], Started)
        last = said[-1]
        assert isinstance(last, Finished)
        assert not any(isinstance(event, Finished) for event in said[:-1])
        assert last.reason == ends.reason
        if ends.reason == "length":
            assert last.usage.completion <= LIMIT + 64 * form.native
            assert len(text) <= LIMIT + 64 * 5 * form.native
    if ends.text is not None:
        assert text == ends.text


def test_refused_connection_means_backend_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    for form in FORMS:
        driver = LlamaCpp(url)
        with pytest.raises(BackendDown):
            driver.stream(form.task(True), 1, form.caps, Cancel())
        driver.close()
