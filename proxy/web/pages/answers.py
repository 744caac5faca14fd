"""Answers of the chat page: written in the background, stored as they grow, streamed to followers.

All is stored before it is shown. While this process writes answers, it sends the store a heartbeat
every few seconds, from which others learn that it is alive, and it learns what was stopped
elsewhere. Followers get server-sent events: from memory if this process writes the answer, from the
store if another worker does.

    {"type": "text" | "reasoning", "delta": …}    a piece, in order
    {"type": "extra", "extra": {…}}                all sources and steps so far
    {"type": "place", "place": n}                  the place in the queue
    {"type": "over", "status": …}                  the last event

An event's id says how much text and reasoning has been sent, so a client that reconnects continues
from there, with any worker.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ...core.events import Finished, ReasoningDelta, TextDelta
from ...dialogue.events import DialogueEvent, DialogueRequest, DialogueStep, Sources, Tick
from ...dialogue.run import Running
from ...errors import Cancelled, Ended, GatewayError, NotFound, QueueFull, StoreUnavailable
from ...gateway import Caller, Info
from ...runtime.cancel import Cancel
from ...runtime.lasting import Lasting, no_pause
from ...store.outage import retry_while_unavailable
from ..observability import Record
from ..services import Services

if TYPE_CHECKING:
    from ...store.conversations import ConversationStore, Status, StoredMessage

MOST = 64  # page answers written at once, for all keys together
GATHER = 0.08  # seconds of text that are stored together
LOOK = 0.1  # seconds between two looks for text that no later text has pushed out
PAUSE = 1.0  # seconds between two tries of an unavailable store
BEAT = 2.0  # seconds between two heartbeats; a fraction of the store's timeout for them
log = logging.getLogger("slotproxy.pages")


HEARTBEAT = 15.0
STORE_LOOK = 0.25  # seconds between two reads of the store
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
        time.sleep(STORE_LOOK)


def _sent(event: dict[str, Any], at: StreamPosition) -> bytes:
    return b"id: %d.%d\ndata: %b\n\n" % (*at, msgspec.json.encode(event))


class Answers:
    """The answers that this process writes, by message id."""

    def __init__(self, beat: float = BEAT) -> None:
        self._writers: dict[str, _Writer] = {}
        self._beat = beat
        self._beating = False
        self._lock = threading.Lock()

    def get(self, owner: str, message_id: str) -> LiveMessage | None:
        writer = self._writers.get(message_id)
        return writer.live if writer is not None and writer.live.owner == owner else None

    def stop(self, owner: str, conversation: str = "") -> None:
        """Cancel the answers of a conversation, or all answers of the owner."""
        for writer in list(self._writers.values()):
            if writer.live.owner == owner and conversation in ("", writer.live.conversation):
                writer.live.cancel.cancel()

    def begin(
        self,
        services: Services,
        store: ConversationStore,
        keep: Callable[[], StoredMessage],
        request: DialogueRequest,
        caller: Caller,
        record: Record,
    ) -> StoredMessage:
        """Start a thread that writes an answer into the message that `keep` returns."""
        if not services.writers.take(request.owner):
            raise QueueFull("too many answers are being generated", retry_after=5.0)
        try:
            message = keep()
        except BaseException:
            services.writers.give(request.owner)
            raise
        live = LiveMessage(request.owner, request.session, lambda: store.renew(message.id))
        writer = _Writer(store, message, live, record, request.kind)
        with self._lock:
            self._writers[message.id] = writer
        services.ongoing.add(live)

        def work() -> None:
            services.observer.begin(record, live.cancel)
            try:
                writer.write(lambda: services.dialogues.run(request, live.cancel, caller))
            finally:
                try:
                    services.observer.finish(record)
                finally:
                    over()

        def over() -> None:
            with self._lock:
                # It may be continued by now: then another one writes this message.
                if self._writers.get(message.id) is writer:
                    del self._writers[message.id]
            live.end()
            services.writers.give(request.owner)

        try:
            with self._lock:
                if not self._beating:
                    threading.Thread(target=self._signs, name="answers", daemon=True).start()
                    self._beating = True
            threading.Thread(target=work, name="answer", daemon=True).start()
        except RuntimeError:  # no more threads available
            store.finish(
                message.id, "failed", {"kind": request.kind, "error": "too many tasks are running"}
            )
            over()
        return message

    def _signs(self) -> None:
        """While answers are being written, send heartbeats, and show what waits for more text."""
        beating = Lasting("heartbeat of answers", no_pause)
        showing = Lasting("text of answers", no_pause)

        beaten = time.monotonic()
        while True:
            time.sleep(min(LOOK, self._beat))
            with self._lock:
                writers = list(self._writers.values())
                self._beating = bool(writers)
            if not writers:
                return
            for writer in writers:
                showing.turn(writer.show_late)
            if time.monotonic() - beaten >= self._beat:
                beaten = time.monotonic()
                for writer in writers:
                    beating.turn(writer.beat)


class _Writer:
    """Writes a dialogue's events to the store, then to the followers; gathers text."""

    def __init__(
        self,
        store: ConversationStore,
        message: StoredMessage,
        live: LiveMessage,
        record: Record,
        kind: str,
    ) -> None:
        self._store = store
        self._id = message.id
        self.live = live
        self._record = record
        self._extra: dict[str, Any] = {"kind": kind, "sources": [], "steps": []}
        usage = message.extra.get("usage")
        count = usage.get("completion") if isinstance(usage, dict) else None
        self._begun = count if type(count) is int else 0  # tokens that the message has already
        for piece, text in (("reasoning", message.reasoning), ("text", message.content)):
            if text:
                live.publish({"type": piece, "delta": text})
        self._text: list[str] = []
        self._thought: list[str] = []
        self._flushed = 0.0
        self._flushing = threading.Lock()
        self._place = 0
        self._unsaved = "", ""  # text and reasoning that arrived while the store was unavailable
        self._away = 0.0  # the store is not tried before this time

    def write(self, run: Callable[[], Running]) -> None:
        running: Running | None = None
        status: Status = "failed"
        try:
            running = run()
            self._record.info = running.info
            for event in running:
                with self._flushing:
                    self._take(event, running)
            status, self._record.status = "done", 200
        except GatewayError as error:
            if type(error) is Cancelled:
                status, self._record.status = "stopped", 200
                return
            self._record.status = error.status
            self._extra |= {"error": error.message, "code": error.code or error.type}
        except BaseException:
            self._record.status = 500
            self._extra |= {"error": "internal error", "code": GatewayError.type}
            raise
        finally:
            self._end(status, running)

    def _end(self, status: Status, running: Running | None) -> None:
        """Whatever happened: the answer must not stay unfinished."""
        cancel = self.live.cancel
        if cancel.cancelled and not isinstance(cancel.error(), Ended):
            status = "stopped"  # by its reader; closing the answer also cancels it
        try:
            if running is not None:
                running.close()
                self._measure(running.info)
            with self._flushing, contextlib.suppress(Cancelled):
                self._flush()
        finally:
            self._finish(status)
            self.live.publish({"type": "over", "status": status})

    def _finish(self, status: Status) -> None:
        """Store the end, which exists nowhere else: this waits if the store is unavailable."""

        def finish() -> None:
            if self._unsaved != ("", ""):
                self._store.append(self._id, *self._unsaved)
                self._unsaved = "", ""
            self._store.finish(self._id, status, self._extra)

        retry_while_unavailable(finish)

    def show_late(self) -> None:
        """Flush the text that has waited for more text long enough."""
        with self._flushing:
            if time.monotonic() - self._flushed <= GATHER:
                return
            try:
                self._flush()
            except BaseException as error:
                # Stopped elsewhere, or the text is lost: the answer must not go on.
                self.live.cancel.cancel()
                if not isinstance(error, Cancelled):
                    raise

    def beat(self) -> None:
        if not self.live.renew():
            self.live.cancel.cancel()  # stopped or deleted by another process

    def _take(self, event: DialogueEvent, running: Running) -> None:
        if isinstance(event, TextDelta | ReasoningDelta):
            (self._text if isinstance(event, TextDelta) else self._thought).append(event.text)
            if time.monotonic() - self._flushed > GATHER:
                self._flush()
            return
        self._flush()
        match event:
            case Sources(citations=citations):
                self._extra["sources"] += msgspec.to_builtins(citations)
                self._extra["asked"] = True
                self._keep_extra()
            case DialogueStep():
                self._extra["steps"].append(msgspec.to_builtins(event))
                self._keep_extra()
            case Tick() if (place := running.info.place) != self._place:
                self._place = place
                self.live.publish({"type": "place", "place": place})
            case Finished(usage=usage, reason=reason):
                counts = msgspec.to_builtins(usage)
                counts["completion"] += self._begun
                self._extra |= {"usage": counts, "finish_reason": reason}

    def _measure(self, info: Info) -> None:
        """Read the dialogue's info, which is complete only after close()."""
        writing = info.last_token - info.first_token
        tokens = info.usage.completion
        self._extra |= {
            "model": info.model,
            "first_token": round(info.first_token, 3),
            "speed": round((tokens - 1) / writing, 1) if tokens > 1 and writing > 0 else None,
        }

    def _flush(self) -> None:
        text, thought = "".join(self._text), "".join(self._thought)
        self._text.clear()
        self._thought.clear()
        self._flushed = time.monotonic()
        if text or thought:
            self._keep(text, thought)
        if thought:
            self.live.publish({"type": "reasoning", "delta": thought})
        if text:
            self.live.publish({"type": "text", "delta": text})

    def _keep_extra(self) -> None:
        self._keep(extra=self._extra)
        self.live.publish({"type": "extra", "extra": self._extra})

    def _keep(self, text: str = "", thought: str = "", extra: dict[str, Any] | None = None) -> None:
        """Store pending text, or keep it while the store is away. Raises Cancelled."""
        before = self._unsaved
        self._unsaved = text, thought = before[0] + text, before[1] + thought
        if time.monotonic() < self._away:
            return
        try:
            wanted = self._store.append(self._id, text, thought, extra)
        except StoreUnavailable:
            self._away = time.monotonic() + PAUSE
            return
        except BaseException:
            self._unsaved = "", ""
            raise
        self._unsaved = "", ""
        if not wanted:
            raise Cancelled("stopped")
