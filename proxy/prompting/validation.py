"""Validates a complete answer against the requested JSON schema, with `jsonschema`: servers fail
open (llama.cpp issue 19051) and not every keyword can be expressed as a grammar.

Both schema and text are untrusted. Nothing is fetched. Patterns run as automata and never with
`re`, where ten characters can take years. Every keyword spends from the budget of work: thirty
schemas that refer to each other twice mean a billion checks. The frames of the stack are counted:
an overflow within `referencing`, which is Rust, is a panic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import msgspec
from jsonschema import FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import Draft201909Validator, Draft202012Validator, extend
from referencing import Registry
from referencing.exceptions import Unresolvable

from ..errors import InvalidParameter
from ..gbnf.automaton import Automaton, TooManyStatesError
from ..gbnf.json_types import PATTERNS, known_by
from ..gbnf.regex import PatternError, automaton_of
from ..gbnf.work_budget import spend

MAX_FRAMES = 800  # of Python's thousand
KEYWORD_FRAMES = 3  # a keyword takes so many …
REFERENCE_FRAMES = 5  # … and a reference
MAX_MESSAGE = 300

Errors = Iterator[ValidationError]
Keyword = Callable[..., Errors]


_frames: ContextVar[list[int]] = ContextVar("frames")  # those that one validation has left


def automaton(pattern: str) -> Automaton | None:
    """Matches the strings in which the pattern is found; None if the pattern is not regular."""
    try:
        return automaton_of(pattern)
    except (PatternError, TooManyStatesError):
        return None


def _may_match(pattern: str, text: str) -> bool:
    compiled = automaton(pattern)
    return compiled is None or compiled.accepts(text)


def _pattern(validator: Any, pattern: Any, instance: Any, schema: Any) -> Errors:
    if isinstance(instance, str) and not _may_match(pattern, instance):
        yield ValidationError("it does not match the pattern")


def _format(validator: Any, name: Any, instance: Any, schema: Any) -> Errors:
    """As their RFCs define formats; jsonschema accepts a time without its zone."""
    if isinstance(instance, str) and name in PATTERNS and not _may_match(PATTERNS[name], instance):
        yield ValidationError(f"it is not a valid {name}")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Errors:
    if isinstance(instance, Mapping):
        for pattern, inside in patterns.items():
            spend(5 + len(instance))
            compiled = automaton(pattern)
            for name, value in instance.items():
                if compiled is not None and compiled.accepts(name):
                    yield from validator.descend(value, inside, path=name, schema_path=pattern)


def _additional(validator: Any, extra: Any, instance: Any, schema: Any) -> Errors:
    if not isinstance(instance, Mapping):
        return
    patterns = [automaton(pattern) for pattern in schema.get("patternProperties", ())]
    for name, value in instance.items():
        spend(1 + len(patterns))
        named = name in schema.get("properties", ())
        if not named and not any(p is None or p.accepts(name) for p in patterns):
            yield from validator.descend(value, extra, path=name)


def _enum(validator: Any, values: Any, instance: Any, schema: Any) -> Errors:
    spend(len(values) >> 2)
    if known_by(instance) not in set(map(known_by, values)):
        yield ValidationError(f"{instance!r} is not one of the values of enum")


def _unique(validator: Any, unique: Any, instance: Any, schema: Any) -> Errors:
    if unique is True and isinstance(instance, list):
        spend(2 * len(instance))
        if len(set(map(known_by, instance))) < len(instance):
            yield ValidationError(f"{instance!r} has non-unique elements")


def _charged(follow: Keyword, *, is_reference: bool) -> Keyword:
    """A keyword that spends by the size of its values. Raises RecursionError for too many within
    each other."""

    frames = REFERENCE_FRAMES if is_reference else KEYWORD_FRAMES

    def charged(validator: Any, value: Any, instance: Any, schema: Any) -> Errors:
        work = 10
        for part in (value, instance):
            if isinstance(part, dict | list):
                work += len(part) >> 2
        spend(work)
        left = _frames.get()
        if left[0] < frames:
            raise RecursionError
        left[0] -= frames
        try:
            yield from follow(validator, value, instance, schema)
        finally:
            left[0] += frames

    return charged


_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_OURS: Mapping[str, Keyword] = {
    "enum": _enum,
    "uniqueItems": _unique,
    "format": _format,
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional,
}


def _bounded(standard: Any) -> Any:
    """The validator of a standard with our keywords, all of which are charged."""
    keywords = {
        name: _charged(keyword, is_reference=name in _REFERENCES)
        for name, keyword in {**standard.VALIDATORS, **_OURS}.items()
    }
    return extend(standard, keywords)  # type: ignore[no-untyped-call]


_Validator = _bounded(Draft202012Validator)
_TupleValidator = _bounded(Draft201909Validator)  # which knows a list in `items`
_NO_FORMATS = FormatChecker(formats=())  # it would check patterns with `re`


class OutputValidator:
    """Validates texts against a schema. `unchecked` are the patterns that are not regular and are
    therefore not checked; the client receives a warning."""

    def __init__(self, schema: Any) -> None:
        """Raises InvalidParameter if `schema` is not a valid JSON schema."""
        parts = list(_objects(schema))
        spend(sum(map(_work_of, parts)))
        tuples = any(isinstance(part.get("items"), list) for part in parts)
        validator = _TupleValidator if tuples else _Validator
        try:
            validator.check_schema(schema, format_checker=_NO_FORMATS)
            self.unchecked = tuple(_unchecked(parts))
        except SchemaError as error:
            where = "/".join(map(str, error.path))
            raise InvalidParameter(
                "response_format",
                f"is not a valid JSON schema: {where}: {error.message[:MAX_MESSAGE]}",
            ) from None
        except RecursionError:
            raise InvalidParameter("response_format", "is nested too deeply") from None
        words = {word for part in parts for word in part}
        if {"unevaluatedProperties", "patternProperties"} <= words:
            # jsonschema finds evaluated properties with `re`.
            raise InvalidParameter(
                "response_format", "uses both unevaluatedProperties and patternProperties"
            )
        self._validator: Any = validator(schema, registry=Registry())

    def fault(self, text: str) -> str:
        """The error in a text; "" if it is JSON that matches the schema."""
        try:
            value = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            return f"it is not valid JSON: {error}"
        token = _frames.set([MAX_FRAMES])
        try:
            fault = next(self._validator.iter_errors(value), None)
        except (RecursionError, Unresolvable):
            return "its schema has a reference that is endless or cannot be resolved"
        finally:
            _frames.reset(token)
        if fault is None:
            return ""
        return f"at {fault.json_path[:MAX_MESSAGE]}: {fault.message[:MAX_MESSAGE]}"


def _work_of(schema: Mapping[str, Any]) -> int:
    sizes = (len(v) for v in schema.values() if isinstance(v, list | dict | str))
    return 60 + 150 * len(schema) + sum(sizes)


def _unchecked(parts: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The patterns that are not regular. Raises SchemaError for an invalid one."""
    patterns: dict[str, None] = {}
    for part in parts:
        if isinstance(part.get("pattern"), str):
            patterns[part["pattern"]] = None
        if isinstance(part.get("patternProperties"), Mapping):
            patterns.update(dict.fromkeys(part["patternProperties"]))
    for pattern in patterns:
        try:
            automaton_of(pattern)
        except TooManyStatesError:
            yield pattern
        except PatternError as error:
            if not error.unsupported:
                raise SchemaError(f"{pattern!r} is not a 'regex'") from None
            yield pattern


def _objects(schema: Any) -> Iterator[Mapping[str, Any]]:
    todo = [schema]
    while todo:
        part = todo.pop()
        if isinstance(part, Mapping):
            yield part
            todo += part.values()
        elif isinstance(part, list):
            todo += part
