"""Captures: what client and gateway, and gateway and backend, sent each other.

Two hooks see the bytes pass: `Captures.watching` wraps the application, and an exchange with a
backend calls `Cancel.on_exchange`. Both only keep references. Once record and answer are over, the
capture waits for a thread that redacts, packs and stores it. What does not fit is dropped."""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from io import BytesIO
from typing import Any

import msgspec

from ..runtime.blocking import run_in_native_thread
from ..runtime.cancel import Cancel
from ..runtime.keep_alive import KeepAlive, no_pause
from ..runtime.locks import native_lock
from ..store.ledger_rows import CANCELLED, OK
from ..web.ledger.writer import outcome_of
from ..web.observability.record import CAPTURE, RECORD, Record
from .captures_redact import HIDDEN, body
from .captures_store import Ring, Row

KEEP = 8 << 20  # bytes of a body that are looked through for files and keys
CALLS = 8  # of a request to backends
MOST_WAITING = 4096  # captures that wait to be stored, and
MOST_HELD = 64 << 20  # bytes of theirs
PERIOD = 0.25  # seconds between two looks for them
QUIET = 60.0  # seconds between two log lines about dropped ones
LEVEL = 1  # of the compression
LONGEST = 1024  # characters of a header
OPT_OUT = "HTTP_X_SLOTPROXY_CAPTURE"
PRIVATE = ("auth", "key", "token", "cookie", "secret", "password")  # in the name of a header
COUNTING = b"tokenize HTTP/1.1\r"  # ends the first line of a call that only counts

log = logging.getLogger("slotproxy.captures")
Json = dict[str, Any]
WSGI = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Kept:
    """Pieces of a body, but for those beyond `KEEP`."""

    __slots__ = ("kept", "pieces", "size")

    def __init__(self, *pieces: bytes) -> None:
        self.pieces: list[bytes] = []
        self.size = self.kept = 0
        for piece in pieces:
            self.add(piece)

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        if self.size <= KEEP:
            self.pieces.append(piece)
            self.kept = self.size

    def json(self, secrets: Iterable[bytes]) -> Json:
        return body(self.pieces, self.size - self.kept, secrets)


class _Input:
    """A body that is kept while it is read."""

    def __init__(self, source: Any, kept: Kept) -> None:
        self._source, self._kept = source, kept

    def __getattr__(self, name: str) -> Any:
        def read(*args: Any) -> Any:
            self._kept.add(data := getattr(self._source, name)(*args))
            return data

        return read


class _Answer:
    """An answer that is kept while it is sent; `over` is called after its close()."""

    def __init__(self, parts: Any, kept: Kept, over: Callable[[], None]) -> None:
        self.holds_slot = getattr(parts, "holds_slot", False)
        self._parts, self._kept, self._over = parts, kept, over

    def __iter__(self) -> Iterator[bytes]:
        keep = self._kept.add
        for piece in self._parts:
            keep(piece)
            yield piece

    def close(self) -> None:
        try:
            if hasattr(self._parts, "close"):
                self._parts.close()
        finally:
            self._over()


class _Call:
    """A request to a backend. What its parser reads of the answer is kept, too."""

    def __init__(self, exchange: Any, message: bytes, rest: Iterable[bytes]) -> None:
        self.exchange = exchange  # it knows the status later
        self.head, _, begin = message.partition(b"\r\n\r\n")
        # The parts of an upload are in a file, which is closed later.
        self.sent = Kept(begin, *(rest if type(rest) is tuple else ()))
        self.received = Kept()
        take, keep = exchange.on_body, self.received.add

        def both(piece: bytes) -> None:
            take(piece)
            keep(piece)

        exchange.on_body = both

    def json(self, secrets: list[bytes]) -> Json:
        first, *lines = self.head.split(b"\r\n")
        own = [line.rpartition(b" ")[2] for line in lines if line.startswith(b"Authorization")]
        return {
            "request": first.rpartition(b" ")[0].decode("latin-1"),
            "status": self.exchange.status,
            "sent": self.sent.json(secrets + own),
            "received": self.received.json(secrets + own),
        }


class Capture:
    """A request that may be captured. `off`: it is not. `by` is the identity of its record."""

    def __init__(self, environ: dict[str, Any], sent: Kept, ends: int) -> None:
        """`ends` are those that come before it is over."""
        self.environ, self.sent, self.received = environ, sent, Kept()
        self.calls: list[_Call] = []
        self.ends = [*range(ends)]  # pop() is atomic
        self.by = self.more = 0
        self.off = False
        self.head: Json = {}  # empty if it is not to be stored

    @property
    def size(self) -> int:
        own = self.sent.kept + self.received.kept
        return own + sum(call.sent.kept + call.received.kept for call in self.calls)

    def row(self) -> Row:
        environ, calls, self.calls = self.environ, self.calls, []  # ends a cycle of references
        headers = {
            name.removeprefix("HTTP_").replace("_", "-").lower(): str(value)[:LONGEST]
            for name, value in environ.items()
            if name.startswith("HTTP_") or name == "CONTENT_TYPE"
        }
        private = [name for name in headers if any(part in name for part in PRIVATE)]
        secrets = [headers[name].rpartition(" ")[2].encode("latin-1") for name in private]
        whole = self.head | {
            "request": f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}",
            "headers": headers | dict.fromkeys(private, HIDDEN.decode()),
            "sent": self.sent.json(secrets),
            "received": self.received.json(secrets),
            "calls": [call.json(secrets) for call in calls],
            "more_calls": self.more,
        }
        data = zlib.compress(msgspec.json.encode(whole), LEVEL)
        return Row(self.head["id"], self.head["key"], self.head["ended"], data)


class Captures:
    """`mode` says what is captured of the key of this name: all, failed or off."""

    def __init__(self, ring: Ring, mode: Callable[[str], str]) -> None:
        self.mode, self.ring = mode, ring
        self.dropped = self._held = self._reported = 0
        self._waiting: deque[Capture] = deque()
        self._deleted: dict[str, float] = {}  # when all of a key were deleted
        self._lock = native_lock()
        self._closing = threading.Event()

    def watching(self, app: WSGI) -> WSGI:
        """The application, with what its clients send and get kept."""

        def watched(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            if environ.get(OPT_OUT, "").lower() in ("off", "0", "false"):
                return app(environ, start_response)
            source, sent = environ["wsgi.input"], Kept()
            if type(source) is BytesIO:
                sent.add(source.getvalue())
            else:
                environ["wsgi.input"] = _Input(source, sent)
            capture = environ[CAPTURE] = Capture(environ, sent, ends=2)
            parts = app(environ, start_response)
            record: Record = environ[RECORD]
            if record.asks_model and self.mode(record.key) != "off":
                if type(parts) is not list:
                    return _Answer(parts, capture.received, partial(self._end, capture))
                for piece in parts:
                    capture.received.add(piece)
            self._end(capture)
            return parts

        return watched

    def begin(self, record: Record, cancel: Cancel) -> None:
        """Watch what a request asks of backends."""
        if record.capture is None:
            return
        if record.capture.by not in (0, id(record)):  # a job, which outlasts the request
            first = record.capture
            record.capture = Capture(first.environ, first.sent, ends=1)
            record.capture.off = first.off
        record.capture.by = id(record)
        cancel.on_exchange = partial(self._called, record, record.capture)

    def _called(self, record: Record, capture: Capture, exchange: Any, *sent: Any) -> None:
        line, _, _ = sent[0].partition(b"\n")
        if self.mode(record.key) == "off" or line.endswith(COUNTING):
            return
        if len(capture.calls) < CALLS:
            capture.calls.append(_Call(exchange, *sent))
        else:
            capture.more += 1

    def finished(self, record: Record, took: float) -> None:
        """Called with every request that asked a model."""
        capture, record.capture = record.capture, None
        if capture is None:
            return
        if record.cancel is not None:
            record.cancel.on_exchange = None  # ends a cycle of references
        mode = self.mode(record.key)
        is_fine = outcome_of(record) in (OK, CANCELLED)
        if not capture.off and (mode == "all" or (mode == "failed" and not is_fine)):
            about = {"id": record.id, "object": "request.capture", "key": record.key}
            capture.head = {**about, "ended": time.time(), "status": record.status}
        self._end(capture)

    def _end(self, capture: Capture) -> None:
        if capture.ends.pop() or not capture.head:
            return
        size = capture.size
        with self._lock:
            if len(self._waiting) < MOST_WAITING and self._held + size <= MOST_HELD:
                self._held += size
                self._waiting.append(capture)
            else:
                self.dropped += 1

    def start(self) -> None:
        threading.Thread(target=self._run, name="captures", daemon=True).start()

    def _run(self) -> None:
        working, logged = KeepAlive("storing captures", no_pause), -QUIET
        while not self._closing.wait(PERIOD):
            working.turn(self.flush)
            new, now = self.dropped - self._reported, time.monotonic()
            if new and now - logged >= QUIET:
                self._reported, logged = self.dropped, now
                log.warning("captures: %d requests dropped: they could not be stored in time", new)

    def close(self) -> None:
        """Store what waits."""
        self._closing.set()
        self.flush()

    def flush(self) -> None:
        """Store what waits now. Raises sqlite3.Error."""
        if self._waiting:
            run_in_native_thread(self._store)

    def _store(self) -> None:
        with self._lock:
            captures, self._waiting, self._held = self._waiting, deque(), 0
        rows = [capture.row() for capture in captures]
        try:
            self.ring.write(row for row in rows if row.at > self._deleted.get(row.key, 0.0))
        except BaseException:
            self.dropped += len(rows)
            raise

    def find(self, most: int = 1, /, **chosen: str) -> list[Json]:
        """At most so many captures with this `request` or `key`, the newest first."""
        rows = run_in_native_thread(partial(self.ring.find, most, **chosen))
        return [_with_prompt(msgspec.json.decode(zlib.decompress(row.data))) for row in rows]

    def delete(self, **chosen: str) -> int:
        """Delete these, also those that wait. Returns how many there were."""
        self.flush()
        if "request" not in chosen:
            self._deleted[chosen["key"]] = time.time()  # one that is being written stays away
        return run_in_native_thread(partial(self.ring.delete, **chosen))


def _with_prompt(capture: Json) -> Json:
    """With the last prompt that a backend got; token ids are written as <5>. "" if the backend made
    it from messages, or if it was cut."""
    prompt: Any = ""
    for call in capture["calls"]:
        try:
            sent = msgspec.json.decode(call["sent"]["text"])
        except (msgspec.DecodeError, RecursionError):
            continue
        if type(sent) is dict:
            prompt = sent.get("prompt") or sent.get("input_prefix") or prompt
    pieces = prompt if type(prompt) is list else [prompt]
    text = "".join(piece if type(piece) is str else f"<{piece}>" for piece in pieces)
    return {**capture, "prompt": text}
