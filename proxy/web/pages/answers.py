"""Answers of the chat page: written in the background, kept as they grow, followed by who looks.

A word is in the store before it is shown, and so are sources and steps: neither a reload, a lost
connection nor a restart loses one. While answers are written here, the store is told so every few
seconds, whatever their dialogues do meanwhile: wait in the queue, evaluate a long prompt, use a
tool. Others learn by that that this process lives, and this one what was stopped through another.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from ...core.invalid import Invalid
from ...dialogue import (
    DialogueEvent,
    DialogueRequest,
    Done,
    Reasoning,
    Sources,
    Step,
    Text,
    Tick,
)
from ...errors import Cancelled, GatewayError, QueueFull, StoreUnavailable
from ...gateway import Caller, Info
from ...lasting import Lasting, no_pause
from ..observe import Record
from .following import Growing

if TYPE_CHECKING:
    from ...dialogue import Running
    from ...store.conversations import ConversationStore, Message, Status
    from ..services import Services

MOST = 64  # answers written at once for pages, of all keys
GATHER = 0.08  # seconds of text that go into the store together
PATIENCE = 600.0  # seconds in which an answer that is over waits for a store that is away
PAUSE = 1.0  # seconds between two tries
BEAT = 2.0  # seconds between two signs of life; a fraction of what the store waits for one
log = logging.getLogger("slotproxy.pages")


class Answers:
    """Those that are written now, by the id of their message."""

    def __init__(self, beat: float = BEAT) -> None:
        self._growing: dict[str, Growing] = {}
        self._beat = beat
        self._beating = False
        self._lock = threading.Lock()

    def get(self, owner: str, message_id: str) -> Growing | None:
        found = self._growing.get(message_id)
        return found if found is not None and found.owner == owner else None

    def stop(self, owner: str, conversation: str = "") -> None:
        """All of a conversation, or of all."""
        for one in list(self._growing.values()):
            if one.owner == owner and conversation in ("", one.conversation):
                one.cancel.cancel()

    def begin(
        self,
        here: Services,
        store: ConversationStore,
        keep: Callable[[], Message],
        request: DialogueRequest,
        caller: Caller,
        record: Record,
    ) -> Message:
        """Write the answer into the message that `keep` gives, from here on in a thread. Raises
        QueueFull, and then has kept nothing."""
        if not here.writers.take(request.owner):
            raise QueueFull("too many answers are being written", retry_after=5.0)
        try:
            message = keep()
        except BaseException:
            here.writers.give(request.owner)
            raise
        growing = Growing(request.owner, request.session, lambda: store.renew(message.id))
        with self._lock:
            self._growing[message.id] = growing
        here.ongoing.add(growing)
        writer = _Writer(store, message.id, growing, record, request.kind)

        def work() -> None:
            here.observer.begin(record)
            try:
                writer.write(lambda: here.dialogues.run(request, growing.cancel, caller))
            finally:
                try:
                    here.observer.end(record)
                finally:
                    over()

        def over() -> None:
            self._growing.pop(message.id, None)
            growing.end()
            here.writers.give(request.owner)

        try:
            self._begin_beating()
            threading.Thread(target=work, name="answer", daemon=True).start()
        except RuntimeError:  # the system gives no more of them
            store.finish(message.id, "failed", {"kind": request.kind, "error": "too much is done"})
            over()
        return message

    def _begin_beating(self) -> None:
        with self._lock:
            if not self._beating:
                threading.Thread(target=self._signs, name="answers", daemon=True).start()
                self._beating = True

    def _signs(self) -> None:
        """Of life, as long as there are answers that grow."""
        beating = Lasting("a sign of life of answers", no_pause)

        def beat(one: Growing) -> None:
            if not one.renew():
                one.cancel.cancel()  # stopped or deleted through another process

        while True:
            time.sleep(self._beat)
            with self._lock:
                growing = list(self._growing.values())
                self._beating = bool(growing)
            if not growing:
                return
            for one in growing:
                beating.turn(partial(beat, one))


class _Writer:
    """Takes a dialogue's events into the store, then to those who follow."""

    def __init__(
        self, store: ConversationStore, message_id: str, growing: Growing, record: Record, kind: str
    ) -> None:
        self._store = store
        self._id = message_id
        self._growing = growing
        self._record = record
        self._extra: dict[str, Any] = {"kind": kind, "sources": [], "steps": []}
        self._text: list[str] = []
        self._thought: list[str] = []
        self._flushed = 0.0
        self._place = 0
        self._unsaved = "", ""  # text and reasoning that came while the store was away
        self._away = 0.0  # until when the store is not asked

    def write(self, run: Callable[[], Running]) -> None:
        running: Running | None = None
        status: Status = "failed"
        try:
            running = run()
            self._record.info = running.info
            for event in running:
                self._take(event, running)
            status, self._record.status = "done", 200
        except Cancelled:
            status, self._record.status = "stopped", 200
        except (GatewayError, Invalid) as error:
            self._record.status = getattr(error, "status", 400)
            self._extra["error"] = getattr(error, "message", "") or str(error)
        except BaseException:
            self._record.status = 500
            self._extra["error"] = "internal error"
            raise
        finally:
            self._end(status, running)

    def _end(self, status: Status, running: Running | None) -> None:
        """Whatever happened: it must not grow for ever."""
        if self._growing.cancel.cancelled:  # by who reads it: closing does so too
            status = "stopped"
        try:
            if running is not None:
                running.close()
                self._measure(running.info)
            with contextlib.suppress(Cancelled):
                self._flush()
        finally:
            self._finish(status)
            self._growing.tell({"type": "over", "status": status})

    def _finish(self, status: Status) -> None:
        """Where the store is away, its return is waited for: the answer is nowhere else."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                if self._unsaved != ("", ""):
                    self._store.append(self._id, *self._unsaved)
                    self._unsaved = "", ""
                self._store.finish(self._id, status, self._extra)
                return
            except StoreUnavailable:
                if time.monotonic() >= end:
                    raise
            time.sleep(PAUSE)

    def _take(self, event: DialogueEvent, running: Running) -> None:
        match event:
            case Text(delta=delta):
                self._text.append(delta)
                if time.monotonic() - self._flushed > GATHER:
                    self._flush()
                return
            case Reasoning(delta=delta):
                self._thought.append(delta)
                if time.monotonic() - self._flushed > GATHER:
                    self._flush()
                return
        self._flush()
        match event:
            case Sources(citations=citations):
                found = msgspec.to_builtins(citations)
                self._extra["sources"] += found
                self._extra["asked"] = True
                self._keep_extra()
            case Step():
                step = msgspec.to_builtins(event)
                self._extra["steps"].append(step)
                self._keep_extra()
            case Tick() if running.info.place != self._place:
                self._place = running.info.place
                self._growing.tell({"type": "place", "place": self._place})
            case Done(usage=usage, finish_reason=reason):
                self._extra |= {"usage": msgspec.to_builtins(usage), "finish_reason": reason}

    def _measure(self, info: Info) -> None:
        """What a dialogue's info says once it was closed: until then it is not whole."""
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
            self._growing.tell({"type": "reasoning", "delta": thought})
        if text:
            self._growing.tell({"type": "text", "delta": text})

    def _keep_extra(self) -> None:
        self._keep(extra=self._extra)
        self._growing.tell({"type": "extra", "extra": self._extra})

    def _keep(self, text: str = "", thought: str = "", extra: dict[str, Any] | None = None) -> None:
        """Raises Cancelled where it was stopped or deleted through another worker. What cannot be
        kept now is kept with what follows."""
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
            raise Cancelled("it is wanted no more")
