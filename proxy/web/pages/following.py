"""Streams an answer that is being written as server-sent events: from memory if this process writes
it, from the store if another worker does.

    {"type": "text" | "reasoning", "delta": …}    a piece, in order
    {"type": "extra", "extra": {…}}                all sources and steps so far
    {"type": "place", "place": n}                  the place in the queue
    {"type": "over", "status": …}                  the last event

An event's id says how much text and reasoning has been sent, so a client that reconnects continues
from there, with any worker.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ...errors import NotFound
from ...runtime.cancel import Cancel

if TYPE_CHECKING:
    from ...store.conversations import ConversationStore

HEARTBEAT = 15.0
LOOK = 0.25  # seconds between two reads of the store
RETRY = b"retry: 1000\n\n"  # milliseconds until a browser reconnects
ALIVE = b": alive\n\n"
END = b"event: end\ndata: {}\n\n"


class StreamPosition(NamedTuple):
    """How many characters have been sent."""

    text: int = 0
    reasoning: int = 0

    def is_within(self, seen: StreamPosition, kind: str) -> bool:
        """Whether a piece of text or reasoning that ends here has been seen."""
        return kind in self._fields and getattr(self, kind) <= getattr(seen, kind)

    @classmethod
    def read(cls, last: str) -> StreamPosition:
        """Parse a Last-Event-ID; an unknown format means the start."""
        parts = last.split(".")
        if len(parts) == 2 and all(p.isascii() and p.isdigit() and len(p) < 10 for p in parts):
            return cls(int(parts[0]), int(parts[1]))
        return cls()


class LiveMessage:
    """An answer that this process is writing."""

    def __init__(self, owner: str, conversation: str, renew: Callable[[], bool]) -> None:
        """`renew` sends the store a heartbeat; False: the answer is no longer wanted."""
        self.owner = owner
        self.conversation = conversation
        self.renew = renew
        self.cancel = Cancel()
        self._at = StreamPosition()
        self._events: list[tuple[str, StreamPosition, bytes]] = []
        self._over = False
        self._changed = threading.Condition()

    def publish(self, event: dict[str, Any]) -> None:
        text, reasoning = self._at
        if event["type"] == "text":
            text += len(event["delta"])
        elif event["type"] == "reasoning":
            reasoning += len(event["delta"])
        self._at = StreamPosition(text, reasoning)
        with self._changed:
            self._events.append((event["type"], self._at, _sent(event, self._at)))
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def follow(self, seen: StreamPosition) -> Iterator[bytes]:
        """Yield the events after `seen`, until the answer is finished."""
        yield RETRY
        sent = 0
        while True:
            with self._changed:
                if sent == len(self._events) and not self._over:
                    self._changed.wait(HEARTBEAT)
                new, over = self._events[sent:], self._over
            sent += len(new)
            yield b"".join(data for kind, at, data in new if not at.is_within(seen, kind)) or ALIVE
            if over and sent == len(self._events):
                yield END
                return


def stored(
    store: ConversationStore, owner: str, message_id: str, seen: StreamPosition
) -> Iterator[bytes]:
    """Yield the events of an answer that another process writes, as it appears in the store."""
    yield RETRY
    extra: dict[str, Any] = {}
    last_sent = time.monotonic()
    while True:
        try:
            now = store.message(owner, message_id)
        except NotFound:  # deleted since
            yield END
            return
        out = []
        if now.extra != extra:
            extra = now.extra
            out.append(_sent({"type": "extra", "extra": extra}, seen))
        if reasoning := now.reasoning[seen.reasoning :]:
            seen = seen._replace(reasoning=len(now.reasoning))
            out.append(_sent({"type": "reasoning", "delta": reasoning}, seen))
        if text := now.content[seen.text :]:
            seen = seen._replace(text=len(now.content))
            out.append(_sent({"type": "text", "delta": text}, seen))
        if now.status != "growing":
            out.append(_sent({"type": "over", "status": now.status}, seen))
            yield b"".join([*out, END])
            return
        if out or time.monotonic() - last_sent > HEARTBEAT:
            last_sent = time.monotonic()
            yield b"".join(out) or ALIVE
        time.sleep(LOOK)


def _sent(event: dict[str, Any], at: StreamPosition) -> bytes:
    return b"id: %d.%d\ndata: %b\n\n" % (*at, msgspec.json.encode(event))
