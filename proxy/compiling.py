"""Compiles untrusted schemas, patterns and grammars without blocking the event loop.

Strategy: most take a few milliseconds. So a job is tried in this process, within a small budget; a
larger one is done again in a child process, within the whole budget, while this process serves
other requests. A child that takes too long nevertheless is ended. Jobs and results are plain
values, and results are cached by the digest of their job. A budget has steps of
about a microsecond each (`gbnf.work_budget`).
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
from msgspec import Struct

from .core.cache import BoundedCache, digest
from .core.request import CompletionRequest
from .errors import InvalidParameter, QueueFull, UpstreamFault, UpstreamTimeout
from .gbnf import NEW, OLD, Grammar, GrammarError, GrammarLimits, check, matches, render
from .gbnf.work_budget import TooMuchWork, limited
from .prompting import constraints
from .prompting.constraints import BoundGrammar, document_schema
from .prompting.stages.validation import Validator
from .runtime.blocking import run_in_native_thread
from .runtime.cancel import Cancel
from .runtime.confinement import MEMORY, confine, limit
from .runtime.subprocesses import Children, serve

WHOLE = 800_000
"""Steps for one job, which covers all schemas of a request: less than a second of CPU."""

MAX_SCHEMAS = 1 << 20
"""Maximum bytes of a request's schemas, tools and response_format together."""

JOBS_KEPT = 16 << 20
"""Bytes of cached validators, and of cached grammars."""

TOO_MUCH = "takes too much work to compile: {} (at most {} steps are allowed)"
LIMITS = {limits.name: limits for limits in (NEW, OLD)}


class CompileResult(Struct, frozen=True, omit_defaults=True):
    """`text` is a grammar or the error in an answer. A rejected job has a `reason`, and `param` if
    known. `unchecked` is set if a pattern of the schema cannot be checked. `schema_gaps` and
    `tool_gaps` are those of a `BoundGrammar`."""

    text: str = ""
    param: str = ""
    reason: str = ""
    unchecked: bool = False
    schema_gaps: tuple[str, ...] = ()
    tool_gaps: tuple[str, ...] = ()


class Bind(Struct, frozen=True, tag=True):
    """Compiles the grammar of a constraint for servers with the named limits."""

    bound: constraints.Constraint
    limits: str

    def done(self) -> CompileResult:
        bound = self.bound
        param = "tools" if bound.schema is None else "response_format"
        size = len(bound.schema or b"") + sum(len(tool.schema) for tool in bound.tools)
        _check_size(param, size)
        made = constraints.grammar(bound, LIMITS[self.limits])
        return CompileResult(made.text, schema_gaps=made.schema_gaps, tool_gaps=made.tool_gaps)

    def refused(self) -> CompileResult:
        """The result if the budget is exceeded."""
        if self.bound.tools:
            return _too_much("tools", "send fewer tools, or simpler parameters")
        return _too_much("response_format", "simplify its patterns, lists and alternatives")


class ReadSchema(Struct, frozen=True, tag=True):
    """Checks that the schema can be used for validation."""

    schema: bytes

    def done(self) -> CompileResult:
        _check_size("response_format", len(self.schema))
        return CompileResult(unchecked=bool(_judge(self.schema).unchecked))

    def refused(self) -> CompileResult:
        return _too_much("response_format", "simplify its patterns")


class JudgeText(Struct, frozen=True, tag=True):
    """Validates a text against a schema."""

    schema: bytes
    said: str

    def done(self) -> CompileResult:
        return CompileResult(_judge(self.schema).fault(self.said))

    def refused(self) -> CompileResult:
        return CompileResult("it takes too much work to validate")


class ReadGrammar(Struct, frozen=True, tag=True):
    """Checks a client's own grammar and rewrites it for servers with the named limits."""

    grammar: str
    limits: str

    def done(self) -> CompileResult:
        limits, text = LIMITS[self.limits], self.grammar
        try:
            grammar = check(text, NEW)
            if limits is not NEW:
                text = render(grammar, limits)
                check(text, limits)
        except GrammarError as error:
            raise InvalidParameter("grammar", str(error)) from None
        return CompileResult(text)

    def refused(self) -> CompileResult:
        return _too_much("grammar", "it needs fewer rules and alternatives")


class Match(Struct, frozen=True, tag=True):
    """Checks a text against a grammar."""

    grammar: str
    said: str

    def done(self) -> CompileResult:
        if matches(_grammar(self.grammar), self.said):
            return CompileResult()
        return CompileResult("it does not match the grammar")

    def refused(self) -> CompileResult:
        return CompileResult("it takes too much work to check")


Job = Bind | ReadSchema | JudgeText | ReadGrammar | Match


def attempt(job: Job, steps: int) -> CompileResult | None:
    """The result of a job; None if it needs more steps."""
    try:
        with limited(steps):
            return job.done()
    except InvalidParameter as error:
        return CompileResult(param=error.param, reason=error.reason)
    except TooMuchWork:
        return None


def do(job: Job) -> CompileResult:
    """The result of a job within the whole budget."""
    return attempt(job, WHOLE) or job.refused()


def _check_size(param: str, size: int) -> None:
    if size > MAX_SCHEMAS:
        raise InvalidParameter(
            param, f"has {size} bytes of schema; at most {MAX_SCHEMAS} are allowed"
        )


def _too_much(param: str, advice: str) -> CompileResult:
    return CompileResult(param=param, reason=TOO_MUCH.format(advice, WHOLE))


_judges: BoundedCache[Any] = BoundedCache(JOBS_KEPT)
_grammars: BoundedCache[Grammar] = BoundedCache(JOBS_KEPT)


def _judge(schema: bytes) -> Any:
    key = digest(schema)
    validator = _judges.get(key)
    if validator is None:
        # Late: jsonschema takes as long to import as Flask.
        from .prompting.validation import OutputValidator

        validator = OutputValidator(msgspec.json.decode(schema))
        _judges.put(key, validator, 1000 + 10 * len(schema))
    return validator


def _grammar(text: str) -> Grammar:
    key = digest(text.encode())
    grammar = _grammars.get(key)
    if grammar is None:
        grammar = check(text, NEW)
        _grammars.put(key, grammar, 1000 + 20 * len(text))
    return grammar


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
        self._children = Children("proxy.compiling", most=AT_ONCE)
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
            return msgspec.to_builtins(do(job))
        except MemoryError:
            return msgspec.to_builtins(job.refused())

    return answer


if __name__ == "__main__":
    confine(network=False)
    serve(_begin, after=collect)
