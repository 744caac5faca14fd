"""Captures: what client and gateway, and gateway and backend, sent each other.

Two hooks see the bytes pass: `Captures.watching` wraps the application, and an exchange with a
backend calls `Cancel.on_exchange`. Both only keep references. Once record and answer are over, the
capture waits for a thread that redacts, packs and stores it. What does not fit is dropped."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

from ..errors import NoIdleSlot, StoreUnavailable
from ..runtime.blocking import run_in_native_thread
from ..runtime.cancel import Cancel
from ..runtime.keep_alive import KeepAlive, no_pause
from ..runtime.locks import native_lock
from ..store.ledger_rows import CANCELLED, OK
from ..web.disconnect import nothing
from ..web.ledger.writer import outcome_of
from ..web.observability.record import CAPTURE, RECORD, Record, may_capture
from ..web.stream import ClosingBody, SlotBody
from .captures_redact import HIDDEN, bodies, unlike_keys
from .captures_store import NEWEST, Batch, Json, Ring, packed

KEEP = 8 << 20  # bytes of a body that are looked through for files and keys
CALLS = 8  # of a request to backends
MOST_WAITING = 4096  # captures that wait to be stored, and
MOST_HELD = 64 << 20  # bytes of theirs
PERIOD = 1.0  # seconds between two looks for them: many together cost a third less
PAGE = 8  # captures that are read together
PACK = 256 << 10  # bytes of captures that are packed together, or so
LONGEST = 1024  # characters of a header
OPT_OUT = "HTTP_X_SLOTPROXY_CAPTURE"
PRIVATE = re.compile("auth|key|token|cookie|secret|password")  # in the name of a header
COUNTING = b"tokenize HTTP/1.1\r"  # ends the first line of a call that only counts

log = logging.getLogger("slotproxy.captures")
T = TypeVar("T")
WSGI = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Kept(list[bytes]):
    """The pieces of a body, but for those beyond `KEEP`; `size` is that of all."""

    size = 0

    def take(self, pieces: list[bytes]) -> None:
        self.size += sum(map(len, pieces))
        if self.size <= KEEP:
            self += pieces

    def of(self, parts: Iterable[bytes]) -> Iterator[bytes]:
        """Yield parts, and keep them."""
        for part in parts:
            self.size += len(part)
            if self.size <= KEEP:
                self.append(part)
            yield part

    def joined(self) -> tuple[bytes, int]:
        """The bytes, and how many are missing."""
        data = b"".join(self)
        return data, self.size - len(data)


class _Read(list[bytes]):
    """What an exchange has parsed and nobody has read yet; then it is kept."""

    def __init__(self, body: Kept) -> None:
        self._kept = body

    def clear(self) -> None:
        self._kept.take(self)
        super().clear()


class _Call(NamedTuple):
    """A request to a backend, whose status the exchange knows later."""

    exchange: Any
    message: bytes
    rest: Iterable[bytes]
    received: Kept


Place = tuple[Json, str, Kept]
"""An object, the name of a field for a text, and the text's bytes."""


class Capture:
    """A request that may be captured. `off`: it is not. `by` is the identity of its record, `mode`
    what is captured of its key, once that is known. Without a `head`, nothing is to be stored."""

    mode, by, more, off = "", 0, 0, False
    head: Json | None = None

    def __init__(self, environ: dict[str, Any], sent: Kept, ends: list[int]) -> None:
        """`ends` has as many items as ends come before all is over: pop() is atomic."""
        self.environ, self.sent, self.ends = environ, sent, ends
        self.received, self.calls = Kept(), list[_Call]()

    def again(self, environ: dict[str, Any], sent: Kept) -> Capture:
        """The capture of what this request began, and what outlasts it."""
        capture = Capture(environ, sent, [0])
        capture.off = self.off
        return capture

    @property
    def size(self) -> int:
        calls = sum(len(call.message) + call.received.size for call in self.calls)
        return self.sent.size + self.received.size + calls

    def json(self, secrets: set[bytes]) -> tuple[Json, list[Place]]:
        """All but the texts, and where the text of each body belongs. Adds what must be in none."""
        calls, self.calls = self.calls, []  # ends a cycle of references
        headers: dict[str, str] = {}
        for variable, value in self.environ.items():
            if variable.startswith("HTTP_") or variable == "CONTENT_TYPE":
                name, is_private = _header(variable)
                headers[name] = HIDDEN.decode() if is_private else value[:LONGEST]
                if is_private:
                    secrets.add(value[:LONGEST].rpartition(" ")[2].encode("latin-1"))
        request = f"{self.environ['REQUEST_METHOD']} {self.environ['PATH_INFO']}"
        made: list[Json] = []
        whole = {**(self.head or {}), "request": request, "headers": headers, "sent": None}
        whole |= {"received": None, "calls": made, "more_calls": self.more}
        places = [(whole, "sent", self.sent), (whole, "received", self.received)]
        for call in calls:
            head, _, begin = call.message.partition(b"\r\n\r\n")
            first, *lines = head.split(b"\r\n")
            secrets.update(line.rpartition(b" ")[2] for line in lines if line.startswith(b"Author"))
            sent = Kept()
            # The parts of an upload are in a file, which is closed by now.
            sent.take([begin, *(call.rest if type(call.rest) is tuple else ())])
            line = first.rpartition(b" ")[0].decode("latin-1")
            side = {"request": line, "status": call.exchange.status, "sent": None}
            made.append(side)
            places += [(side, "sent", sent), (side, "received", call.received)]
        return whole, places


def _batch(captures: Iterable[Capture], keys: Iterable[bytes]) -> Batch:
    """Captures of one key, packed without its secrets and these keys."""
    secrets, places, all_ = set(keys), list[Place](), list[Json]()
    for capture in captures:
        whole, fields = capture.json(secrets)
        all_.append(whole)
        places += fields
    texts = bodies([body.joined() for _, _, body in places], secrets)
    for (side, name, _), text in zip(places, texts, strict=True):
        side[name] = text
    return packed(all_)


@lru_cache(256)  # names may be long
def _header(name: str) -> tuple[str, bool]:
    """The name of a header as it is shown, and whether its value is private."""
    name = name.removeprefix("HTTP_").replace("_", "-").lower()
    return name, PRIVATE.search(name) is not None


class Captures:
    """`mode` says what is captured of the key of this name: all, failed or off. The texts of these
    `keys` are in no capture."""

    def __init__(self, ring: Ring, mode: Callable[[str], str], keys: Iterable[str] = ()) -> None:
        self.mode, self.ring, self._keys = mode, ring, unlike_keys(keys)
        self.dropped = self._held = 0
        self._waiting: list[Capture] = []
        self._lock, self._storing = native_lock(), native_lock()
        self._closing = threading.Event()

    def watching(self, app: WSGI) -> WSGI:
        """The application, with what its clients send and get kept."""

        def watched(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            if not may_capture(environ.get(OPT_OUT, True)):
                return app(environ, start_response)
            capture = environ[CAPTURE] = Capture(environ, Kept(), [0, 1])
            parts: Any = app(environ, start_response)
            record: Record = environ[RECORD]
            if "HTTP_UPGRADE" not in environ:  # whose messages are requests of their own
                del environ[CAPTURE]  # ends a cycle of references
            if not record.asks_model:
                record.capture = None  # ends another
            elif self._captures(capture, record):
                if type(parts) is not list:
                    body = SlotBody if getattr(parts, "holds_slot", False) else ClosingBody
                    close = getattr(parts, "close", nothing)
                    return body(capture.received.of(parts), close, partial(self._end, capture))
                capture.received.take(parts)
            self._end(capture)
            return parts  # type: ignore[no-any-return]

        return watched

    def _captures(self, capture: Capture, record: Record) -> bool:
        """Whether anything may be captured of the request, whose key is known."""
        capture.mode = capture.mode or self.mode(record.key)
        return capture.mode != "off"

    def begin(self, record: Record, cancel: Cancel) -> None:
        """Watch what a request asks of backends."""
        capture: Capture | None = record.capture
        if capture is None:
            return
        if capture.by not in (0, id(record)):  # a job, which outlasts the request
            record.capture = capture = capture.again(capture.environ, capture.sent)
        capture.by = id(record)
        cancel.on_exchange = partial(self._called, record, capture)

    def _called(
        self, record: Record, capture: Capture, exchange: Any, message: bytes, rest: Iterable[bytes]
    ) -> list[bytes]:
        """The list in which an exchange collects what it parses."""
        if message.find(COUNTING, 0, 256) >= 0 or not self._captures(capture, record):
            return []
        if len(capture.calls) >= CALLS:
            capture.more += 1
            return []
        capture.calls.append(_Call(exchange, message, rest, received := Kept()))
        return _Read(received)

    def finished(self, record: Record, took: float) -> None:
        """Called with every request that asked a model."""
        capture, record.capture = record.capture, None
        if capture is None:
            return
        if record.cancel is not None:
            record.cancel.on_exchange = None  # ends a cycle of references
        is_again = record.info.outcome == NoIdleSlot.code  # a line of a batch: asked again
        wanted = self._captures(capture, record) and not capture.off and not is_again
        if wanted and (capture.mode == "all" or outcome_of(record) not in (OK, CANCELLED)):
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
        working, logged = KeepAlive("storing captures", no_pause), 0
        while not self._closing.wait(PERIOD):
            working.turn(self.flush)
            if self.dropped >= 2 * logged + 1:  # ever more rarely
                logged = self.dropped
                log.warning("captures: %d dropped, which could not be stored in time", logged)

    def close(self) -> None:
        """Store what waits, and wait for what is being stored."""
        self._closing.set()
        self._stored(nothing)

    def flush(self) -> None:
        """Store what waits now. Raises StoreUnavailable."""
        if self._waiting:
            self._stored(nothing)

    def _stored(self, use: Callable[[], T]) -> T:
        """What this returns when all that ended before is stored."""

        def store() -> T:
            with self._storing:
                self._store()
                return use()

        return run_in_native_thread(store)

    def _store(self) -> None:
        with self._lock:
            captures, self._waiting, self._held = self._waiting, [], 0
        if not captures:
            return
        batches: dict[tuple[str, int], list[Capture]] = {}
        size = 0
        for capture in captures:
            assert capture.head is not None, "only these wait"
            size += capture.size
            batches.setdefault((capture.head["key"], size // PACK), []).append(capture)
        try:
            self.ring.write([_batch(batch, self._keys) for batch in batches.values()])
        except BaseException:
            self.dropped += len(captures)
            raise

    def find(self, most: int = 1, /, **chosen: str) -> Iterator[Json]:
        """At most so many captures with this `request` or `key`, the newest first, of which few are
        in memory; none if the file is damaged, which the log says."""
        below = NEWEST
        with suppress(StoreUnavailable):
            while most > 0:
                page = partial(self.ring.find, min(most, PAGE), below, **chosen)
                if not (captures := self._stored(page)):
                    return
                yield from (capture for _, capture in captures)
                most, below = most - PAGE, captures[-1][0]

    def delete(self, **chosen: str) -> int:
        """Delete these, also those that wait. Returns how many there were."""
        return self._stored(partial(self.ring.delete, **chosen))
