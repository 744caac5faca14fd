"""Work that a stranger's schema or grammar makes, as plain data in and out.

A job is a value, and so is what comes of it: it can be done here or in another process, and be kept
by its digest. Each is done within a budget of steps (`grammar.effort`), about a microsecond each.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from ..core.invalid import Invalid
from ..core.kept import Kept, digest
from . import bind
from .grammar import NEW, OLD, Grammar, GrammarError, check, matches, render
from .grammar.effort import TooMuchWork, limited

WHOLE = 800_000
"""Steps of one job, all schemas of a request together: less than a second of CPU."""

MAX_SCHEMAS = 1 << 20
"""Bytes of all schemas of a request: tools and response_format together."""

KEPT = 16 << 20
"""Bytes of the judges that are kept, and of the grammars."""

TOO_MUCH = "takes too much work to compile: {} ({} steps of work are allowed)"
LIMITS = {limits.name: limits for limits in (NEW, OLD)}


class Outcome(Struct, frozen=True, omit_defaults=True):
    """`text` is a grammar, or what is wrong with an answer. What is refused has a `reason`, about
    `param` where that is known. `unchecked`: a pattern of the schema is checked by nobody."""

    text: str = ""
    param: str = ""
    reason: str = ""
    unchecked: bool = False


class Bind(Struct, frozen=True, tag=True):
    """The grammar that binds an answer, for servers of these limits (their name)."""

    bound: bind.Bound
    limits: str

    def done(self) -> Outcome:
        bound = self.bound
        param = "tools" if bound.schema is None else "response_format"
        size = len(bound.schema or b"") + sum(len(tool.schema) for tool in bound.tools)
        if size > MAX_SCHEMAS:
            return Outcome(param=param, reason=f"has {size} bytes of schema, {MAX_SCHEMAS} may be")
        try:
            return Outcome(bind.grammar(bound, LIMITS[self.limits]))
        except Invalid as error:
            return Outcome(param=error.param, reason=error.reason)

    def refused(self) -> Outcome:
        """Where the budget is spent."""
        if self.bound.tools:
            return _too_much("tools", "send fewer tools, or simpler parameters")
        return _too_much("response_format", "simplify its patterns, lists and alternatives")


class ReadSchema(Struct, frozen=True, tag=True):
    """Whether it is a schema that an answer can be judged by."""

    schema: bytes

    def done(self) -> Outcome:
        if len(self.schema) > MAX_SCHEMAS:
            reason = f"has {len(self.schema)} bytes of schema, {MAX_SCHEMAS} may be"
            return Outcome(param="response_format", reason=reason)
        try:
            return Outcome(unchecked=bool(_judge(self.schema).unchecked))
        except Invalid as error:
            return Outcome(param=error.param, reason=error.reason)

    def refused(self) -> Outcome:
        return _too_much("response_format", "simplify its patterns")


class JudgeText(Struct, frozen=True, tag=True):
    """What is wrong with a text that was to be JSON of this schema."""

    schema: bytes
    said: str

    def done(self) -> Outcome:
        return Outcome(_judge(self.schema).fault(self.said))

    def refused(self) -> Outcome:
        return Outcome("it takes too much work to validate")


class ReadGrammar(Struct, frozen=True, tag=True):
    """A client's own grammar, as servers of these limits can read it."""

    grammar: str
    limits: str

    def done(self) -> Outcome:
        limits = LIMITS[self.limits]
        try:
            text = self.grammar
            grammar = check(text, NEW)
            if limits is not NEW:
                text = render(grammar, limits)
                check(text, limits)
        except GrammarError as error:
            return Outcome(param="grammar", reason=str(error))
        return Outcome(text)

    def refused(self) -> Outcome:
        return _too_much("grammar", "it needs fewer rules and alternatives")


class Match(Struct, frozen=True, tag=True):
    """What is wrong with a text that was to be of this grammar."""

    grammar: str
    said: str

    def done(self) -> Outcome:
        if matches(_grammar(self.grammar), self.said):
            return Outcome()
        return Outcome("it is not in the language of the grammar")

    def refused(self) -> Outcome:
        return Outcome("it takes too much work to check")


Job = Bind | ReadSchema | JudgeText | ReadGrammar | Match


def attempt(job: Job, steps: int) -> Outcome | None:
    """What comes of a job; None where that takes more steps."""
    try:
        with limited(steps):
            return job.done()
    except TooMuchWork:
        return None


def do(job: Job) -> Outcome:
    """What comes of a job within the whole budget."""
    return attempt(job, WHOLE) or job.refused()


def _too_much(param: str, advice: str) -> Outcome:
    return Outcome(param=param, reason=TOO_MUCH.format(advice, WHOLE))


_judges: Kept[Any] = Kept(KEPT)
_grammars: Kept[Grammar] = Kept(KEPT)


def _judge(schema: bytes) -> Any:
    key = digest(schema)
    found = _judges.get(key)
    if found is None:
        from .validation import Judge  # late: jsonschema takes as long to import as all of Flask

        found = Judge(msgspec.json.decode(schema))
        _judges.put(key, found, 1000 + 10 * len(schema))
    return found


def _grammar(text: str) -> Grammar:
    key = digest(text.encode())
    found = _grammars.get(key)
    if found is None:
        found = check(text, NEW)
        _grammars.put(key, found, 1000 + 20 * len(text))
    return found
