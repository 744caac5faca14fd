"""Jobs that compile or check untrusted schemas and grammars.

Jobs and results are plain values, so a job can run here or in another process, and its result can
be cached by digest. Each has a budget of steps (`gbnf.effort`) of about a microsecond each.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from ..core.kept import BoundedCache, digest
from ..errors import InvalidParameter
from ..gbnf import NEW, OLD, Grammar, GrammarError, check, matches, render
from ..gbnf.effort import TooMuchWork, limited
from . import constraints

WHOLE = 800_000
"""Steps for one job, which covers all schemas of a request: less than a second of CPU."""

MAX_SCHEMAS = 1 << 20
"""Maximum bytes of a request's schemas, tools and response_format together."""

KEPT = 16 << 20
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
        found = constraints.grammar(bound, LIMITS[self.limits])
        return CompileResult(found.text, schema_gaps=found.schema_gaps, tool_gaps=found.tool_gaps)

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


_judges: BoundedCache[Any] = BoundedCache(KEPT)
_grammars: BoundedCache[Grammar] = BoundedCache(KEPT)


def _judge(schema: bytes) -> Any:
    key = digest(schema)
    validator = _judges.get(key)
    if validator is None:
        # Late: jsonschema takes as long to import as Flask.
        from .validation import OutputValidator

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
