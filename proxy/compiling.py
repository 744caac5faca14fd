"""Compiles untrusted schemas, patterns and grammars without blocking the event loop.

A job is tried in this process within a small budget of steps (`gbnf.work_budget`). One that needs
more is done again in a child process, within the whole budget, while this process serves other
requests. Results are cached by the digest of their job.
"""

from __future__ import annotations

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
from .prompting.stages.endings import Validator
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
        _check_size(param, bound.schema or b"", *(tool.schema for tool in bound.tools))
        made = constraints.grammar(bound, LIMITS[self.limits])
        return CompileResult(made.text, schema_gaps=made.schema_gaps, tool_gaps=made.tool_gaps)

    def refused(self) -> CompileResult:
        """The result if the budget is exceeded."""
        if self.bound.tools:
            return _too_much("tools", "send fewer tools, or simpler parameters")
        return _too_much("response_format", "simplify its patterns, lists and alternatives")


class Validate(Struct, frozen=True, tag=True):
    """Validates a text against a schema; without a text, checks that the schema can be used."""

    schema: bytes
    said: str | None = None

    def done(self) -> CompileResult:
        if self.said is not None:
            return CompileResult(_judge(self.schema).fault(self.said))
        _check_size("response_format", self.schema)
        return CompileResult(unchecked=bool(_judge(self.schema).unchecked))

    def refused(self) -> CompileResult:
        if self.said is not None:
            return CompileResult("it takes too much work to validate")
        return _too_much("response_format", "simplify its patterns")


class OwnGrammar(Struct, frozen=True, tag=True):
    """Checks a text against a client's own grammar; without a text, checks the grammar and rewrites
    it for servers with the named limits."""

    grammar: str
    limits: str = NEW.name
    said: str | None = None

    def done(self) -> CompileResult:
        if self.said is not None:
            fits = matches(_grammar(self.grammar), self.said)
            return CompileResult("" if fits else "it does not match the grammar")
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
        if self.said is not None:
            return CompileResult("it takes too much work to check")
        return _too_much("grammar", "it needs fewer rules and alternatives")


Job = Bind | Validate | OwnGrammar


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


def _check_size(param: str, *schemas: bytes) -> None:
    size = sum(map(len, schemas))
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
SHORT = 40 << 10  # bytes of a job that is tried there
SECONDS = 30.0  # for a child, including the wait for one; its budget takes less
KEPT = 32 << 20  # bytes of cached results
AT_ONCE = 2  # children
TICK = 0.1  # seconds between two checks whether the client has left
TOO_MANY = "too many large schemas are being compiled"
VALIDATION = "proxy.prompting.validation"

_encode = msgspec.json.Encoder().encode


class Compiler:
    """Does jobs and caches their results."""

    def __init__(self) -> None:
        self._kept: BoundedCache[CompileResult] = BoundedCache(KEPT)
        self._children = Children("proxy.compiling", most=AT_ONCE)
        self._underway: dict[bytes, threading.Event] = {}  # each set when its job is over

    def outcome(self, job: Job, cancel: Cancel | None = None) -> CompileResult:
        """The result of a job that other requests may need too. If one of them is doing it already,
        wait for that. Raises QueueFull, Cancelled."""
        raw = _encode(job)
        key = digest(raw)
        end = time.monotonic() + SECONDS
        mine = threading.Event()
        while (result := self._kept.get(key)) is None:
            over = self._underway.setdefault(key, mine)
            if over is mine:
                try:
                    result = self._done(job, raw, end - time.monotonic(), cancel)
                    self._kept.put(key, result, 300 + len(result.text) + len(result.reason))
                    return result
                finally:
                    del self._underway[key]
                    mine.set()
            while not over.wait(TICK):
                if cancel is not None:
                    cancel.check()
                if time.monotonic() >= end:
                    raise QueueFull(TOO_MANY, retry_after=1.0)
        return result

    def verdict(self, job: Validate | OwnGrammar, cancel: Cancel | None = None) -> str:
        """What is wrong with an answer, "" for nothing. Raises QueueFull, Cancelled."""
        return self._done(job, _encode(job), SECONDS, cancel).text

    def _done(self, job: Job, raw: bytes, seconds: float, cancel: Cancel | None) -> CompileResult:
        if isinstance(job, Validate) and VALIDATION not in sys.modules:
            run_in_native_thread(lambda: import_module(VALIDATION))  # takes a tenth of a second
        if len(raw) <= SHORT and (result := attempt(job, HERE)) is not None:
            return result
        try:
            answer = self._children.ask(msgspec.Raw(raw), cancel or Cancel(), seconds)
        except (UpstreamTimeout, UpstreamFault):
            # This need not be the schema's fault, whose own work is bounded: cache nothing.
            raise QueueFull(TOO_MANY, retry_after=1.0) from None
        return msgspec.convert(answer, CompileResult)

    def close(self) -> None:
        """End the child processes."""
        self._children.close()


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
    return _accepted(OwnGrammar(text, limits.name), cancel).text


def _accepted(job: Job, cancel: Cancel | None) -> CompileResult:
    result = compiler.outcome(job, cancel)
    if result.reason:
        raise InvalidParameter(result.param, result.reason)
    return result


class AnswerJudge(Struct, frozen=True):
    """Validates an answer against a schema, or a client's own grammar; `cancel` is the request's.
    `unchecked`: a pattern of the schema is not checked."""

    by: bytes | str
    unchecked: bool = False
    cancel: Cancel | None = None

    def fault(self, text: str) -> str:
        by = self.by
        if isinstance(by, bytes):
            return compiler.verdict(Validate(by, text), self.cancel)
        return compiler.verdict(OwnGrammar(by, said=text), self.cancel)


def by_schema(schema: bytes, cancel: Cancel | None = None) -> AnswerJudge:
    """The validator for a schema in JSON. Raises InvalidParameter, QueueFull, Cancelled."""
    return AnswerJudge(schema, _accepted(Validate(schema), cancel).unchecked, cancel)


def judged(request: CompletionRequest, cancel: Cancel | None = None) -> Validator | None:
    """The validator for a request's answer; None if any text is valid. Raises InvalidParameter,
    QueueFull, Cancelled."""
    schema = document_schema(request)
    if schema is not None:
        return by_schema(constraints.JSON.encode(schema), cancel)
    grammar = request.sampling.get("grammar")
    return AnswerJudge(grammar, cancel=cancel) if grammar else None


def _begin(setup: Any) -> Callable[[Any], Any]:
    """In a child: lower its priority and limit its memory. The garbage collector rests during jobs:
    one makes many values and few cycles, and the collector would take up to a third of it."""
    gc.freeze()
    gc.disable()
    if sys.platform != "win32":
        os.nice(5)
    limit(MEMORY)

    def answer(question: Any) -> Any:
        job: Job = msgspec.convert(question, Job)
        try:
            return msgspec.to_builtins(do(job))
        except MemoryError:
            return msgspec.to_builtins(job.refused())

    return answer


if __name__ == "__main__":
    confine(network=False)
    serve(_begin, after=gc.collect)
