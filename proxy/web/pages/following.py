"""Following an answer while it is written: as server-sent events, from memory where this process
writes it, from the store where another worker does.

    {"type": "text" | "reasoning", "delta": …}    a piece, in its order
    {"type": "extra", "extra": {…}}                sources and steps, all there are so far
    {"type": "place", "place": n}                  the place in the queue
    {"type": "over", "status": …}                  the last

The id of an event says how much of text and reasoning was told with it, so whoever had lost the
connection goes on after that, with any worker.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ...cancel import Cancel
from ...errors import NotFound

if TYPE_CHECKING:
    from ...store.conversations import ConversationStore

HEARTBEAT = 15.0
LOOK = 0.25  # seconds between two looks into the store
RETRY = b"retry: 1000\n\n"  # milliseconds until a browser asks again
ALIVE = b": alive\n\n"
END = b"event: end\ndata: {}\n\n"


class Seen(NamedTuple):
    """How many characters were told."""

    text: int = 0
    reasoning: int = 0

    @classmethod
    def read(cls, last: str) -> Seen:
        """Of a Last-Event-ID; nothing of one that is none of ours."""
        parts = last.split(".")
        if len(parts) == 2 and all(p.isascii() and p.isdigit() and len(p) < 10 for p in parts):
            return cls(int(parts[0]), int(parts[1]))
        return cls()


class Growing:
    """One answer while it is written by this process."""

    def __init__(self, owner: str, conversation: str, renew: Callable[[], bool]) -> None:
        """`renew` tells the store that it is being written; False where it is wanted no more."""
        self.owner = owner
        self.conversation = conversation
        self.renew = renew
        self.cancel = Cancel()
        self._at = Seen()
        self._events: list[tuple[str, Seen, bytes]] = []
        self._over = False
        self._changed = threading.Condition()

    def tell(self, event: dict[str, Any]) -> None:
        text, reasoning = self._at
        if event["type"] == "text":
            text += len(event["delta"])
        elif event["type"] == "reasoning":
            reasoning += len(event["delta"])
        self._at = Seen(text, reasoning)
        with self._changed:
            self._events.append((event["type"], self._at, _sent(event, self._at)))
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def follow(self, seen: Seen) -> Iterator[bytes]:
        """What comes after what was `seen`, until it is over."""
        yield RETRY
        told = 0
        while True:
            with self._changed:
                if told == len(self._events) and not self._over:
                    self._changed.wait(HEARTBEAT)
                new, over = self._events[told:], self._over
            told += len(new)
            yield b"".join(data for kind, at, data in new if not _known(kind, at, seen)) or ALIVE
            if over and told == len(self._events):
                yield END
                return


def stored(store: ConversationStore, owner: str, message_id: str, seen: Seen) -> Iterator[bytes]:
    """The same of an answer that another process writes, as far as it is in the store."""
    yield RETRY
    extra: dict[str, Any] = {}
    told = time.monotonic()
    while True:
        try:
            now = store.message(owner, message_id)
        except NotFound:  # deleted meanwhile
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
        if out or time.monotonic() - told > HEARTBEAT:
            told = time.monotonic()
            yield b"".join(out) or ALIVE
        time.sleep(LOOK)


def _sent(event: dict[str, Any], at: Seen) -> bytes:
    return b"id: %d.%d\ndata: %b\n\n" % (*at, msgspec.json.encode(event))


def _known(kind: str, at: Seen, seen: Seen) -> bool:
    if kind == "text":
        return at.text <= seen.text
    return kind == "reasoning" and at.reasoning <= seen.reasoning
