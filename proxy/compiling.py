"""Schemas, patterns and grammars of strangers, out of the loop's way.

Strategy: most take a few milliseconds. So a job is tried where it is asked for, within a small
budget; what needs more is done again in a child, within the whole budget, while this process serves
others. A child that takes too long all the same is ended. What came of it is kept by its digest.
"""

from __future__ import annotations

import base64
import os
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import msgspec

from .aside import aside
from .cancel import Cancel
from .children import Children, serve
from .confinement import confine
from .core.invalid import Invalid
from .core.kept import Kept, digest
from .core.request import CompletionRequest
from .errors import Cancelled, QueueFull, UpstreamFault, UpstreamTimeout
from .prompting import bind
from .prompting.bind import document_schema
from .prompting.grammar import NEW, Limits
from .prompting.judging import Judge
from .prompting.work import Bind, Job, JudgeText, Match, Outcome, ReadGrammar, ReadSchema, attempt
from .prompting.work import do as do_whole

HERE = 20_000  # steps of a job that is done on the loop: ten milliseconds
SHORT = 32 << 10  # bytes of one that is tried there
SECONDS = 30.0  # for a child, waiting for one included; its budget is less than one
LAST = 30.0  # for one that judges an answer, which nobody wants to lose
MEMORY = 1 << 30  # bytes of a child
KEPT = 32 << 20  # bytes of outcomes
AT_ONCE = 2  # children
TICK = 0.1  # seconds between two looks whether the client still waits
TOO_MANY = "too many large schemas are being compiled"
VALIDATION = "proxy.prompting.validation"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Job).decode


class _Underway:
    """A job that one request does and others may wait for. `found` is None until it is over, and
    where it failed."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.found: Outcome | None = None


class Compiler:
    """Does jobs, and keeps what came of them."""

    def __init__(self) -> None:
        self._kept: Kept[Outcome] = Kept(KEPT)
        self._large: Kept[bool] = Kept(1 << 20)  # jobs that are not tried here again
        self._children = Children("proxy.compiling", most=AT_ONCE)
        self._lock = threading.Lock()
        self._underway: dict[bytes, _Underway] = {}

    def outcome(self, job: Job, cancel: Cancel | None = None) -> Outcome:
        """What comes of a job that others may ask for too. Where another request does it already,
        this one waits for that. Raises QueueFull, Cancelled."""
        raw = _encode(job)
        key = digest(raw)
        end = time.monotonic() + SECONDS
        while True:
            found = self._kept.get(key)
            if found is not None:
                return found
            with self._lock:
                other = self._underway.get(key)
                if other is None:
                    mine = self._underway[key] = _Underway()
            if other is None:
                return self._shared(mine, job, raw, key, end - time.monotonic(), cancel)
            while not other.over.wait(TICK):
                if cancel is not None and cancel.cancelled:
                    raise Cancelled("the client closed the request")
                if time.monotonic() >= end:
                    raise QueueFull(TOO_MANY, retry_after=1.0)
            if other.found is not None:
                return other.found
            # The other request failed or its client left: this one may do the job now.

    def verdict(self, job: JudgeText | Match, cancel: Cancel | None = None) -> str:
        """What is wrong with an answer; "" for nothing. Raises QueueFull, Cancelled."""
        return self._done(job, _encode(job), _about(job), LAST, cancel).text

    def _shared(
        self,
        mine: _Underway,
        job: Job,
        raw: bytes,
        key: bytes,
        seconds: float,
        cancel: Cancel | None,
    ) -> Outcome:
        """Do a job for this request and all that wait for `mine`."""
        try:
            mine.found = found = self._done(job, raw, _about(job), seconds, cancel)
            self._kept.put(key, found, 300 + len(found.text) + len(found.reason))
            return found
        finally:
            with self._lock:
                del self._underway[key]
            mine.over.set()

    def _done(
        self,
        job: Job,
        raw: bytes,
        about: bytes = b"",
        seconds: float = SECONDS,
        cancel: Cancel | None = None,
    ) -> Outcome:
        if isinstance(job, ReadSchema) and VALIDATION not in sys.modules:
            aside(lambda: import_module(VALIDATION))  # it takes a tenth of a second
        if len(raw) <= SHORT and not (about and self._large.get(about)):
            found = attempt(job, HERE)
            if found is not None:
                return found
            if about:
                self._large.put(about, True, 100)
        question = {"job": base64.b64encode(raw).decode()}
        try:
            answer = self._children.ask(question, cancel or Cancel(), seconds)
        except (UpstreamTimeout, UpstreamFault):
            # Not the schema's fault for sure: its own work is bounded. So nothing is kept of it.
            raise QueueFull(TOO_MANY, retry_after=1.0) from None
        return msgspec.convert(answer, Outcome)

    def close(self) -> None:
        """End the children."""
        self._children.close()


def _about(job: Job) -> bytes:
    """What jobs have in common of which one shows that the others are large too."""
    if isinstance(job, Bind):
        return digest(job.bound.schema) if job.bound.schema else b""
    return digest(job.grammar.encode() if isinstance(job, ReadGrammar | Match) else job.schema)


compiler = Compiler()
"""The process's own: what it keeps is the same for all."""


def grammar(bound: bind.Bound, limits: Limits, cancel: Cancel | None = None) -> str:
    """GBNF text that binds an answer. Raises Invalid, QueueFull, Cancelled."""
    return _text(Bind(bound, limits.name), cancel)


def own_grammar(text: str, limits: Limits = NEW, cancel: Cancel | None = None) -> str:
    """A client's own grammar as servers of these limits read it. Raises Invalid, QueueFull,
    Cancelled."""
    return _text(ReadGrammar(text, limits.name), cancel)


def _text(job: Bind | ReadGrammar, cancel: Cancel | None) -> str:
    found = compiler.outcome(job, cancel)
    if found.reason:
        raise Invalid(found.param, found.reason)
    return found.text


class BySchema(msgspec.Struct, frozen=True):
    """Judges the answer to a request, which `cancel` ends, by a schema. `unchecked`: a pattern of
    the schema is not checked."""

    schema: bytes
    unchecked: bool = False
    cancel: Cancel | None = None

    def fault(self, text: str) -> str:
        return compiler.verdict(JudgeText(self.schema, text), self.cancel)


class ByGrammar(msgspec.Struct, frozen=True):
    """Judges the answer to a request, which `cancel` ends, by a client's own grammar."""

    grammar: str
    cancel: Cancel | None = None

    def fault(self, text: str) -> str:
        return compiler.verdict(Match(self.grammar, text), self.cancel)


def by_schema(schema: bytes, cancel: Cancel | None = None) -> BySchema:
    """The judge of a schema's JSON text. Raises Invalid, QueueFull, Cancelled."""
    found = compiler.outcome(ReadSchema(schema), cancel)
    if found.reason:
        raise Invalid(found.param, found.reason)
    return BySchema(schema, found.unchecked, cancel)


def judged(request: CompletionRequest, cancel: Cancel | None = None) -> Judge | None:
    """The judge of a request's answer; None where any text will do. Raises Invalid, QueueFull,
    Cancelled."""
    schema = document_schema(request)
    if schema is not None:
        return by_schema(bind.JSON.encode(schema), cancel)
    grammar = request.sampling.get("grammar")
    return ByGrammar(grammar, cancel) if grammar else None


def _begin(setup: Any) -> Callable[[Any], Any]:
    """In a child: it yields to the gateway, and does not take the machine's memory."""
    if sys.platform != "win32":
        import resource

        os.nice(5)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    def answer(question: dict[str, str]) -> Any:
        job = _decode(base64.b64decode(question["job"]))
        try:
            return msgspec.to_builtins(do_whole(job))
        except MemoryError:
            return msgspec.to_builtins(job.refused())

    return answer


if __name__ == "__main__":
    confine(network=False)
    serve(_begin)
