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
import threading
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ...core.events import Finished, ReasoningDelta, TextDelta
from ...core.usage import tokens_per_second
from ...dialogue.events import DialogueEvent, DialogueRequest, DialogueStep, Sources, Tick
from ...dialogue.run import Running
from ...errors import Cancelled, Ended, GatewayError, NotFound, QueueFull, StoreUnavailable
from ...gateway import Caller, Info
from ...runtime.cancel import Cancel
from ...runtime.keep_alive import KeepAlive, WhileNeeded
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
HEARTBEAT = 15.0
STORE_LOOK = 0.25  # seconds between two reads of the store
RETRY = b"retry: 1000\n\n"  # milliseconds until a browser reconnects
ALIVE = b": alive\n\n"
END = b"event: end\ndata: {}\n\n"


class StreamPosition(NamedTuple):
    """How many characters have been sent."""

    text: int = 0
    reasoning: int = 0

    @classmethod
    def read(cls, last: str) -> StreamPosition:
        """Parse a Last-Event-ID; an unknown format means the start."""
        parts = last.split(".")
        if len(parts) == 2 and all(p.isascii() and p.isdigit() and len(p) < 10 for p in parts):
            return cls(int(parts[0]), int(parts[1]))
        return cls()


class AnswerState(NamedTuple):
    """What a follower may see of an answer."""

    text: str
    reasoning: str
    extra: dict[str, Any]
    status: str
    place: int = 0


def stored(store: ConversationStore, owner: str, message_id: str) -> Iterator[AnswerState]:
    """Yield the states of an answer that another process writes, as they appear in the store."""
    with contextlib.suppress(NotFound):  # deleted since
        while True:
            now = store.message(owner, message_id)
            yield AnswerState(now.content, now.reasoning, now.extra, now.status)
            time.sleep(STORE_LOOK)


def follow(states: Iterator[AnswerState], seen: StreamPosition) -> Iterator[bytes]:
    """Yield the events after `seen`, until the answer is finished."""
    yield RETRY
    extra: dict[str, Any] = {}
    place, last_sent = 0, time.monotonic()
    for now in states:
        out = []
        if now.extra != extra:
            extra = now.extra
            out.append(_sent({"type": "extra", "extra": extra}, seen))
        if now.place != place:
            place = now.place
            out.append(_sent({"type": "place", "place": place}, seen))
        if reasoning := now.reasoning[seen.reasoning :]:
            seen = seen._replace(reasoning=len(now.reasoning))
            out.append(_sent({"type": "reasoning", "delta": reasoning}, seen))
        if text := now.text[seen.text :]:
            seen = seen._replace(text=len(now.text))
            out.append(_sent({"type": "text", "delta": text}, seen))
        if now.status != "growing":
            yield b"".join([*out, _sent({"type": "over", "status": now.status}, seen)])
            break
        if out or time.monotonic() - last_sent >= HEARTBEAT:
            last_sent = time.monotonic()
            yield b"".join(out) or ALIVE
    yield END


def _sent(event: dict[str, Any], at: StreamPosition) -> bytes:
    return b"id: %d.%d\ndata: %b\n\n" % (*at, msgspec.json.encode(event))


class Answers:
    def __init__(self, beat: float = BEAT) -> None:
        self._writers: dict[str, LiveAnswer] = {}
        self._beat = beat
        self._beaten = 0.0
        self._lasting = KeepAlive("heartbeat or text of answers")
        self._lock = threading.Lock()
        self._looking = WhileNeeded("answers", min(LOOK, beat), lambda: self._writers, self._look)

    def get(self, owner: str, message_id: str) -> LiveAnswer | None:
        writer = self._writers.get(message_id)
        return writer if writer is not None and writer.owner == owner else None

    def stop(self, owner: str, conversation: str = "") -> None:
        """Cancel the answers of a conversation, or all answers of the owner."""
        for writer in list(self._writers.values()):
            if writer.owner == owner and conversation in ("", writer.conversation):
                writer.cancel.cancel()

    def begin(
        self,
        services: Services,
        store: ConversationStore,
        keep: Callable[[], StoredMessage],
        request: DialogueRequest,
        caller: Caller,
        record: Record,
        then: Callable[[StoredMessage], None] = lambda message: None,
    ) -> StoredMessage:
        """Write an answer, in a thread, into the message of `keep`; `then` follows it."""
        if not services.writers.take(request.owner):
            raise QueueFull("too many answers are being generated", retry_after=5.0)
        try:
            message = keep()
        except BaseException:
            services.writers.give(request.owner)
            raise
        writer = LiveAnswer(store, message, request, record)
        with self._lock:
            self._writers[message.id] = writer
        services.ongoing.add(writer)

        def work() -> None:
            services.observer.begin(record, writer.cancel)
            try:
                writer.write(lambda: services.dialogues.run(request, writer.cancel, caller))
            finally:
                try:
                    services.observer.finish(record)
                finally:
                    over()
            if writer.is_done:
                then(message)

        def over() -> None:
            with self._lock:
                # It may be continued by now: then another one writes this message.
                if self._writers.get(message.id) is writer:
                    del self._writers[message.id]
            services.writers.give(request.owner)

        try:
            self._looking.start()
            threading.Thread(target=work, name="answer", daemon=True).start()
        except RuntimeError:  # no more threads available
            extra = {**message.extra, "error": "too many tasks are running"}
            store.finish(message.id, "failed", extra)
            writer.publish(status="failed")
            over()
        return message

    def _look(self) -> None:
        """Send heartbeats, and show what waits for more text."""
        is_late = time.monotonic() - self._beaten >= self._beat
        if is_late:
            self._beaten = time.monotonic()
        for writer in list(self._writers.values()):
            self._lasting.turn(writer.show_late)
            if is_late:
                self._lasting.turn(writer.beat)


class LiveAnswer:
    """Writes a dialogue's events to the store, then to the followers; gathers text."""

    def __init__(
        self,
        store: ConversationStore,
        message: StoredMessage,
        request: DialogueRequest,
        record: Record,
    ) -> None:
        self._store = store
        self._id = message.id
        self.owner = request.owner
        self.conversation = request.session
        self.cancel = Cancel()
        self._record = record
        self._state = AnswerState(message.content, message.reasoning, {}, "growing")
        self._changed = threading.Condition()
        self._extra: dict[str, Any] = {"kind": request.kind, "model": request.model}
        self._extra |= {"sources": [], "steps": []}
        usage = message.extra.get("usage")
        count = usage.get("completion") if isinstance(usage, dict) else None
        self._begun = count if type(count) is int else 0  # tokens that the message has already
        self._text: list[str] = []
        self._thought: list[str] = []
        self._thinks = 0.0  # since when it reasons
        self._flushed = 0.0
        self._flushing = threading.Lock()
        self._unsaved = "", ""  # text and reasoning that arrived while the store was unavailable
        self._away = 0.0  # the store is not tried before this time

    def states(self) -> Iterator[AnswerState]:
        """Yield the state now, and after each change; the same one again for a heartbeat."""
        state: AnswerState | None = None
        while True:
            with self._changed:
                if self._state is state:
                    self._changed.wait(HEARTBEAT)
                state = self._state
            yield state

    @property
    def is_done(self) -> bool:
        return self._state.status == "done"

    def publish(self, **changes: Any) -> None:
        with self._changed:
            self._state = self._state._replace(**changes)
            self._changed.notify_all()

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
            error.show_to(self._record.shown)
            code = error.code or error.type
            self._extra |= {"error": error.message, "code": code, **error.more}
        except BaseException:
            self._record.status = 500
            self._extra |= {"error": "internal error", "code": GatewayError.type}
            raise
        finally:
            self._end(status, running)

    def _end(self, status: Status, running: Running | None) -> None:
        """Whatever happened, the answer is finished. Waits if the store is unavailable."""
        if self.cancel.cancelled and not isinstance(self.cancel.error(), Ended):
            status = "stopped"  # by its reader; closing the answer also cancels it

        def finish() -> None:
            if self._unsaved != ("", ""):
                self._store.append(self._id, *self._unsaved)
                self._unsaved = "", ""
            self._store.finish(self._id, status, self._extra)

        try:
            if running is not None:
                running.close()
                self._measure(running.info)
            with self._flushing, contextlib.suppress(Cancelled):
                self._flush()
        finally:
            try:
                retry_while_unavailable(finish)
            finally:
                self.publish(status=status)

    def show_late(self) -> None:
        """Flush the text that has waited for more text long enough."""
        with self._flushing:
            if time.monotonic() - self._flushed <= GATHER:
                return
            try:
                self._flush()
            except BaseException as error:
                # Stopped elsewhere, or the text is lost: the answer must not go on.
                self.cancel.cancel()
                if not isinstance(error, Cancelled):
                    raise

    def beat(self) -> None:
        if not self._store.renew(self._id):
            self.cancel.cancel()  # stopped or deleted by another process

    def _take(self, event: DialogueEvent, running: Running) -> None:
        if isinstance(event, TextDelta | ReasoningDelta):
            now = time.monotonic()
            if isinstance(event, ReasoningDelta):
                self._thinks = self._thinks or now
            elif self._thinks and "thought" not in self._extra:
                self._extra["thought"] = round(now - self._thinks, 1)
            (self._text if isinstance(event, TextDelta) else self._thought).append(event.text)
            if now - self._flushed > GATHER:
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
            case Tick() if (place := running.info.place) != self._state.place:
                self.publish(place=place)
            case Finished(usage=usage, reason=reason):
                counts = msgspec.to_builtins(usage)
                counts["completion"] += self._begun
                self._extra |= {"usage": counts, "finish_reason": reason}

    def _measure(self, info: Info) -> None:
        """Read the dialogue's info, which is complete only after close()."""
        speed = tokens_per_second(info.usage.completion, info.last_token - info.first_token)
        self._extra |= {
            "model": info.model,
            "first_token": round(info.first_token, 3),
            "speed": round(speed, 1) or None,
        }

    def _flush(self) -> None:
        text, thought = "".join(self._text), "".join(self._thought)
        self._text.clear()
        self._thought.clear()
        self._flushed = time.monotonic()
        if text or thought:
            self._keep(text, thought)
            before = self._state
            self.publish(text=before.text + text, reasoning=before.reasoning + thought)

    def _keep_extra(self) -> None:
        self._keep(extra=self._extra)
        self.publish(extra=deepcopy(self._extra))

    def _keep(self, text: str = "", thought: str = "", extra: dict[str, Any] | None = None) -> None:
        """Store pending text, or keep it while the store is away. Raises Cancelled."""
        before = self._unsaved
        self._unsaved = text, thought = before[0] + text, before[1] + thought
        if time.monotonic() < self._away:
            return
        try:
            is_open = self._store.append(self._id, text, thought, extra)
        except StoreUnavailable:
            self._away = time.monotonic() + PAUSE
            return
        except BaseException:
            self._unsaved = "", ""
            raise
        self._unsaved = "", ""
        if not is_open:
            raise Cancelled("stopped")
