"""Compiles untrusted schemas, patterns and grammars without blocking the event loop.

Strategy: most take a few milliseconds. So a job is tried in this process, within a small budget; a
larger one is done again in a child process, within the whole budget, while this process serves
other requests. A child that takes too long nevertheless is ended. Results are cached by their
digest.
"""

from __future__ import annotations

import base64
import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import msgspec

from ..core.kept import BoundedCache, digest
from ..core.request import CompletionRequest
from ..errors import InvalidParameter, QueueFull, UpstreamFault, UpstreamTimeout
from ..gbnf import NEW, GrammarLimits
from ..prompting import constraints
from ..prompting.constraints import BoundGrammar, document_schema
from ..prompting.stages.validation import Validator
from ..prompting.work import (
    Bind,
    CompileResult,
    Job,
    JudgeText,
    Match,
    ReadGrammar,
    ReadSchema,
    attempt,
)
from ..prompting.work import do as do_whole
from ..runtime.blocking import run_in_native_thread
from ..runtime.cancel import Cancel
from ..runtime.confinement import MEMORY, confine, limit
from ..runtime.subprocesses import Children, serve

HERE = 30_000  # steps of a job on the event loop: fifteen milliseconds
SHORT = 32 << 10  # bytes of a job that is tried there
SECONDS = 30.0  # for a child, including the wait for one; its budget takes less
LAST = 30.0  # for a job that validates an answer, which would otherwise be lost
KEPT = 32 << 20  # bytes of cached results
AT_ONCE = 2  # children
GARBAGE = 200_000  # values made since the last collection
TICK = 0.1  # seconds between two checks whether the client has left
TOO_MANY = "too many large schemas are being compiled"
VALIDATION = "proxy.prompting.validation"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Job).decode


class _Underway:
    """A job that one request does and others may wait for. `found` is None until it is done, and if
    it failed."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.found: CompileResult | None = None


class Compiler:
    """Does jobs and caches their results."""

    def __init__(self) -> None:
        self._kept: BoundedCache[CompileResult] = BoundedCache(KEPT)
        self._large: BoundedCache[bool] = BoundedCache(
            1 << 20
        )  # jobs known to be too large for this process
        self._children = Children("proxy.compiling.compiler", most=AT_ONCE)
        self._lock = threading.Lock()
        self._underway: dict[bytes, _Underway] = {}

    def outcome(self, job: Job, cancel: Cancel | None = None) -> CompileResult:
        """The result of a job that other requests may need too. If one of them is doing it already,
        wait for that. Raises QueueFull, Cancelled."""
        raw = _encode(job)
        key = digest(raw)
        end = time.monotonic() + SECONDS
        while True:
            cached = self._kept.get(key)
            if cached is not None:
                return cached
            with self._lock:
                other = self._underway.get(key)
                if other is None:
                    underway = self._underway[key] = _Underway()
            if other is None:
                return self._shared(underway, job, raw, key, end - time.monotonic(), cancel)
            while not other.over.wait(TICK):
                if cancel is not None:
                    cancel.check()
                if time.monotonic() >= end:
                    raise QueueFull(TOO_MANY, retry_after=1.0)
            if other.found is not None:
                return other.found
            # The other request failed or was cancelled, so this one may do the job now.

    def verdict(self, job: JudgeText | Match, cancel: Cancel | None = None) -> str:
        """What is wrong with an answer, "" for nothing. Raises QueueFull, Cancelled."""
        return self._done(job, _encode(job), _similarity_key(job), LAST, cancel).text

    def _shared(
        self,
        underway: _Underway,
        job: Job,
        raw: bytes,
        key: bytes,
        seconds: float,
        cancel: Cancel | None,
    ) -> CompileResult:
        """Do a job for this request and all that wait for `mine`."""
        try:
            underway.found = result = self._done(job, raw, _similarity_key(job), seconds, cancel)
            self._kept.put(key, result, 300 + len(result.text) + len(result.reason))
            return result
        finally:
            with self._lock:
                del self._underway[key]
            underway.over.set()

    def _done(
        self,
        job: Job,
        raw: bytes,
        about: bytes = b"",
        seconds: float = SECONDS,
        cancel: Cancel | None = None,
    ) -> CompileResult:
        if isinstance(job, ReadSchema) and VALIDATION not in sys.modules:
            run_in_native_thread(lambda: import_module(VALIDATION))  # takes a tenth of a second
        if len(raw) <= SHORT and not (about and self._large.get(about)):
            result = attempt(job, HERE)
            if result is not None:
                return result
            if about:
                self._large.put(about, True, 100)
        question = {"job": base64.b64encode(raw).decode()}
        try:
            answer = self._children.ask(question, cancel or Cancel(), seconds)
        except (UpstreamTimeout, UpstreamFault):
            # This need not be the schema's fault, whose own work is bounded: cache nothing.
            raise QueueFull(TOO_MANY, retry_after=1.0) from None
        return msgspec.convert(answer, CompileResult)

    def close(self) -> None:
        """End the child processes."""
        self._children.close()


def _similarity_key(job: Job) -> bytes:
    """The part that similar jobs share: if one is too large for this process, so are the others."""
    if isinstance(job, Bind):
        return digest(job.bound.schema) if job.bound.schema else b""
    return digest(job.grammar.encode() if isinstance(job, ReadGrammar | Match) else job.schema)


compiler = Compiler()
"""The process's own: what it keeps is the same for all."""


def grammar(
    bound: constraints.Constraint, limits: GrammarLimits, cancel: Cancel | None = None
) -> BoundGrammar:
    """The grammar of a constraint. Raises InvalidParameter, QueueFull, Cancelled."""
    result = _accepted(Bind(bound, limits.name), cancel)
    return BoundGrammar(result.text, result.schema_gaps, result.tool_gaps)


def own_grammar(text: str, limits: GrammarLimits = NEW, cancel: Cancel | None = None) -> str:
    """A client's own grammar, in a form that servers with these limits accept. Raises
    InvalidParameter, QueueFull, Cancelled."""
    return _accepted(ReadGrammar(text, limits.name), cancel).text


def _accepted(job: Bind | ReadSchema | ReadGrammar, cancel: Cancel | None) -> CompileResult:
    result = compiler.outcome(job, cancel)
    if result.reason:
        raise InvalidParameter(result.param, result.reason)
    return result


class BySchema(msgspec.Struct, frozen=True):
    """Validates an answer against a schema; `cancel` is the request's. `unchecked`: a pattern of
    the schema is not checked."""

    schema: bytes
    unchecked: bool = False
    cancel: Cancel | None = None

    def fault(self, text: str) -> str:
        return compiler.verdict(JudgeText(self.schema, text), self.cancel)


class ByGrammar(msgspec.Struct, frozen=True):
    """Validates an answer against a client's own grammar; `cancel` is the request's."""

    grammar: str
    cancel: Cancel | None = None

    def fault(self, text: str) -> str:
        return compiler.verdict(Match(self.grammar, text), self.cancel)


def by_schema(schema: bytes, cancel: Cancel | None = None) -> BySchema:
    """The validator for a schema in JSON. Raises InvalidParameter, QueueFull, Cancelled."""
    return BySchema(schema, _accepted(ReadSchema(schema), cancel).unchecked, cancel)


def judged(request: CompletionRequest, cancel: Cancel | None = None) -> Validator | None:
    """The validator for a request's answer; None if any text is valid. Raises InvalidParameter,
    QueueFull, Cancelled."""
    schema = document_schema(request)
    if schema is not None:
        return by_schema(constraints.JSON.encode(schema), cancel)
    grammar = request.sampling.get("grammar")
    return ByGrammar(grammar, cancel) if grammar else None


def collect_between_jobs() -> None:
    """Let the garbage collector rest during jobs: one makes many values and few cycles, and the
    collector takes up to a third of it."""
    gc.freeze()
    gc.disable()


def collect() -> None:
    """Collect garbage, if there is much of it."""
    if gc.get_count()[0] > GARBAGE:
        gc.collect()


def _begin(setup: Any) -> Callable[[Any], Any]:
    """In a child: lower its priority and limit its memory."""
    collect_between_jobs()
    if sys.platform != "win32":
        os.nice(5)
    limit(MEMORY)

    def answer(question: dict[str, str]) -> Any:
        job = _decode(base64.b64decode(question["job"]))
        try:
            return msgspec.to_builtins(do_whole(job))
        except MemoryError:
            return msgspec.to_builtins(job.refused())

    return answer


if __name__ == "__main__":
    confine(network=False)
    serve(_begin, after=collect)
