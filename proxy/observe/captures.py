"""Captures: what client and gateway, and gateway and backend, sent each other.

Two hooks see the bytes pass: `Captures.watching` wraps the application, and an exchange with a
backend calls `Cancel.on_exchange`. Both only keep references. Once record and answer are over, the
capture waits for a thread that redacts, packs and stores it. What does not fit is dropped."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, TypeVar

import msgspec

from ..errors import NoIdleSlot, StoreUnavailable
from ..runtime.blocking import run_in_native_thread
from ..runtime.cancel import Cancel
from ..runtime.keep_alive import KeepAlive
from ..runtime.locks import native_lock
from ..store.ledger_rows import CANCELLED, OK
from ..web.disconnect import nothing
from ..web.ledger.writer import outcome_of
from ..web.observability.record import CAPTURE, RECORD, Record, may_capture
from ..web.stream import ClosingBody, SlotBody, WholeBody
from .captures_redact import HIDDEN, Body, is_plain, redacted, unlike_keys
from .captures_store import (
    NEWEST,
    About,
    Block,
    Entry,
    Json,
    Ring,
    entry_of,
    joined,
    packed,
    parts_of,
)

KEEP = 8 << 20  # bytes of a body that are looked through for files and keys
CALLS = 8  # of a request to backends
MOST_WAITING = 4096  # captures that wait to be stored, and
MOST_HELD = 64 << 20  # bytes of theirs
PERIOD = 1.0  # seconds between two looks for them: many together cost a third less
PACK = 256 << 10  # bytes of captures that are packed together, or so
LONGEST = 1024  # characters of a header
OPT_OUT = "HTTP_X_SLOTPROXY_CAPTURE"
PRIVATE = re.compile("auth|key|token|cookie|secret|password")
COUNTING = b"tokenize HTTP/1.1\r"  # ends the first line of a call that only counts

log = logging.getLogger("slotproxy.captures")
T = TypeVar("T")
WSGI = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Kept(msgspec.Struct, gc=False):
    """The parts of a body, but for those beyond `KEEP`; `size` is that of all."""

    size: int = 0
    _parts: list[bytes] = []

    def add(self, part: bytes) -> None:
        self.size += len(part)
        if self.size <= KEEP:
            self._parts.append(part)

    def of(self, parts: Iterable[bytes]) -> Iterator[bytes]:
        """Yield parts, and keep them."""
        add = self.add
        for part in parts:
            add(part)
            yield part

    def joined(self) -> Body:
        data = b"".join(self._parts)
        return data, self.size - len(data)


class Capture(msgspec.Struct, eq=False):
    """A request that may be captured. `off`: it is not. `by` is the identity of its record, `mode`
    what is captured of its key, once that asks a model. Without `about`, nothing is to be stored.
    `ends` has as many items as ends come before all is over: pop() is atomic."""

    environ: dict[str, Any]
    ends: list[int]
    mode: str = "off"
    by: int = 0
    more: int = 0
    off: bool = False
    about: tuple[str, str, float, int] | None = None
    sent: bytes = b""
    calls: tuple[tuple[Any, bytes, Iterable[bytes], Kept], ...] = ()
    """Requests to backends, the exchanges of which know the status later."""
    received: Kept = None  # type: ignore[assignment]  # until its mode is known

    def again(self, environ: dict[str, Any], sent: bytes = b"") -> Capture:
        """The capture of what this request began, and what outlasts it."""
        capture = Capture(environ, [0])
        capture.off, capture.sent = self.off, sent
        return capture

    def entry(self, about: tuple[str, str, float, int]) -> Entry:
        """What is to be stored, as it came. What else belongs to the request is free then."""
        environ = self.environ
        calls: list[tuple[str, int]] = []
        variables = _headers(tuple(environ))
        headers, secrets = _shown(variables, *map(environ.__getitem__, variables))
        bodies = [_bounded(self.sent), self.received.joined()]
        for exchange, message, rest, received in self.calls:
            head, _, text = message.partition(b"\r\n\r\n")
            line = head[: head.find(b" HTTP/")].decode("latin-1")
            calls.append((line, exchange.status))
            if b"\r\nAuthor" in head:
                lines = [line for line in head.split(b"\r\n") if line[:6] == b"Author"]
                secrets = [*secrets, *[line.rpartition(b" ")[2] for line in lines]]
            # The parts of an upload are in a file, which is closed by now.
            bodies.append(_bounded(b"".join((text, *rest)) if type(rest) is tuple else text))
            bodies.append(received.joined())
        self.calls = ()  # ends a cycle of references
        line = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        return entry_of(About(*about, line, self.more, headers, calls), bodies, secrets)


def _bounded(data: bytes) -> Body:
    return (data, 0) if len(data) <= KEEP else (b"", len(data))


@lru_cache(64)  # names may be long, and those of a client are the same each time
def _headers(variables: tuple[str, ...]) -> tuple[str, ...]:
    """Those of an environ that are headers."""
    return tuple(name for name in variables if name.startswith("HTTP_") or name == "CONTENT_TYPE")


@lru_cache(64)  # nearly always the same, too
def _shown(variables: tuple[str, ...], *texts: str) -> tuple[msgspec.Raw, list[bytes]]:
    """Headers as they are stored, and what must be in no body."""
    names = [name.removeprefix("HTTP_").replace("_", "-").lower() for name in variables]
    headers = dict(zip(names, [text[:LONGEST] for text in texts], strict=True))
    secrets = []
    for name in filter(PRIVATE.search, names):
        secrets.append(headers[name].rpartition(" ")[2].encode("latin-1"))
        headers[name] = HIDDEN.decode()
    return msgspec.Raw(msgspec.json.encode(headers)), secrets


def _block(entries: Sequence[Entry], keys: Iterable[bytes]) -> Block:
    """Captures of one key, packed without its secrets and these keys."""
    secrets = set(keys).union(*[entry.secrets for entry in entries])
    text = joined(entries)
    if not is_plain(text, secrets):
        entries = [_redacted(entry, secrets) for entry in entries]
        text = joined(entries)
    return packed(entries, text)


def _redacted(found: Entry, secrets: Iterable[bytes]) -> Entry:
    if is_plain(found.text, secrets):
        return found
    capture, bodies = parts_of(found)
    return entry_of(capture, [redacted(body, secrets) for body in bodies])


class Captures:
    """`mode` says what is captured of the key of this name: all, failed or off. The texts of these
    `keys` are in no capture."""

    def __init__(self, ring: Ring, mode: Callable[[str], str], keys: Iterable[str] = ()) -> None:
        self.mode, self.ring, self._keys = mode, ring, unlike_keys(keys)
        self.dropped = self._held = 0
        self._waiting: list[Entry] = []
        self._lock, self._storing = native_lock(), native_lock()
        self._closing = threading.Event()

    def watching(self, app: WSGI) -> WSGI:
        """The application, with what its clients send and get kept."""

        def watched(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            if OPT_OUT in environ and not may_capture(environ[OPT_OUT]):
                return app(environ, start_response)
            capture = environ[CAPTURE] = Capture(environ, [0, 1])
            parts = app(environ, start_response)
            if "HTTP_UPGRADE" not in environ:  # whose messages are requests of their own
                del environ[CAPTURE]  # ends a cycle of references
            if capture.mode == "off":
                environ[RECORD].capture = None  # ends another
                return parts
            sent = parts.parts if type(parts) is WholeBody else parts
            if type(sent) is not list:
                body = SlotBody if getattr(parts, "holds_slot", False) else ClosingBody
                close = getattr(parts, "close", nothing)
                return body(capture.received.of(parts), close, partial(self._end, capture))
            for part in sent:
                capture.received.add(part)
            self._end(capture)
            return parts

        return watched

    def begin(self, record: Record, cancel: Cancel) -> None:
        """Watch what a request asks of backends, if those of its key are captured."""
        capture: Capture | None = record.capture
        if capture is None:
            return
        if (mode := self.mode(record.key)) == "off":
            record.capture = None
            return
        if capture.by and capture.by != id(record):  # a job, which outlasts the request
            record.capture = capture = capture.again(capture.environ, capture.sent)
        capture.by, capture.mode, capture.received = id(record), mode, Kept()
        cancel.on_exchange = partial(self._called, capture)

    def _called(
        self, capture: Capture, exchange: Any, message: bytes, rest: Iterable[bytes]
    ) -> Callable[[bytes], None] | None:
        """What keeps the parts of the answer of an exchange."""
        if message.find(COUNTING, 0, 256) >= 0:
            return None
        if len(capture.calls) >= CALLS:
            capture.more += 1
            return None
        capture.calls = (*capture.calls, (exchange, message, rest, received := Kept()))
        return received.add

    def finished(self, record: Record, took: float) -> None:
        """Called with every request that asked a model."""
        capture, record.capture = record.capture, None
        if capture is None:
            return
        if record.cancel is not None:
            record.cancel.on_exchange = None  # ends a cycle of references
        if capture.off:
            return
        is_again = record.info.outcome == NoIdleSlot.code  # a line of a batch: asked again
        if not is_again and (capture.mode == "all" or outcome_of(record) not in (OK, CANCELLED)):
            capture.about = record.id, record.key, time.time(), record.status
        self._end(capture)

    def _end(self, capture: Capture) -> None:
        if capture.ends.pop() or capture.about is None:
            return
        entry = capture.entry(capture.about)
        with self._lock:
            if len(self._waiting) < MOST_WAITING and self._held + len(entry.text) <= MOST_HELD:
                self._held += len(entry.text)
                self._waiting.append(entry)
            else:
                self.dropped += 1

    def start(self) -> None:
        threading.Thread(target=self._run, name="captures", daemon=True).start()

    def _run(self) -> None:
        working, logged = KeepAlive("storing captures"), 0
        while not self._closing.wait(PERIOD):
            working.turn(self.flush)
            if self.dropped >= 2 * logged + 1:  # ever more rarely
                logged = self.dropped
                log.warning("captures: %d dropped, which could not be stored in time", logged)

    def close(self) -> None:
        """Store what waits, and wait for what is being stored."""
        self._closing.set()
        self._stored(self.ring.close)

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
            entries, self._waiting, self._held = self._waiting, [], 0
        if not entries:
            return
        batches: dict[tuple[str, int], list[Entry]] = {}
        size = 0
        for entry in entries:
            size += len(entry.text)
            batches.setdefault((entry.key, size // PACK), []).append(entry)
        try:
            self.ring.write([_block(batch, self._keys) for batch in batches.values()])
        except BaseException:
            self.dropped += len(entries)
            raise

    def find(self, most: int = 1, /, **chosen: str) -> Iterator[Json]:
        """At most so many captures with this `request` or `key`, the newest first, of which few are
        in memory; none if the file is damaged, which the log says."""
        below = NEWEST
        with suppress(StoreUnavailable):
            while most > 0 and below:
                below, captures = self._stored(partial(self.ring.find, below, **chosen))
                yield from captures[:most]
                most -= len(captures)

    def delete(self, **chosen: str) -> int:
        """Delete these, also those that wait. Returns how many there were."""
        return self._stored(partial(self.ring.delete, **chosen))
