"""Whether a whole answer is the JSON that was asked for.

A grammar binds what a server writes, but servers fail open (llama.cpp issue 19051), and not every
keyword has a grammar: so the text is judged at the end by `jsonschema`, an implementation of the
standard itself, which has nothing in common with ours.

Both schema and text are strangers'. Nothing is fetched; patterns are run as automata and never by
`re`, where a pattern of ten characters can run for years; every keyword spends of the budget of
work, and references followed are counted besides, since thirty schemas that refer to each other
twice are a billion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import msgspec
from jsonschema import FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import Draft202012Validator, extend
from referencing import Registry
from referencing.exceptions import Unresolvable

from ..core.invalid import Invalid
from .grammar.automaton import Automaton, TooManyStatesError
from .grammar.constraints import known_by
from .grammar.effort import TooMuchWork, spend
from .grammar.formats import FORMATS
from .grammar.patterns import automaton_of
from .grammar.regex import PatternError, read_pattern

MAX_REFERENCES = 5_000
MAX_MESSAGE = 300

Errors = Iterator[ValidationError]
Keyword = Callable[..., Errors]
_left: ContextVar[list[int]] = ContextVar("references left")


class _TooMuch(Exception):
    """More references than any honest document needs."""


def automaton(pattern: str) -> Automaton | None:
    """The strings in which the pattern is found; None for one that is not regular."""
    try:
        return automaton_of(pattern)
    except (PatternError, TooManyStatesError):
        return None


def _pattern(validator: Any, pattern: Any, instance: Any, schema: Any) -> Errors:
    if isinstance(instance, str):
        found = automaton(pattern)
        if found is not None and not found.accepts(instance):
            yield ValidationError("it does not match its pattern")


def _format(validator: Any, name: Any, instance: Any, schema: Any) -> Errors:
    """The formats of RFCs as they say; jsonschema's own take a time without its zone."""
    if isinstance(instance, str) and name in FORMATS:
        found = automaton(FORMATS[name])
        if found is not None and not found.accepts(instance):
            yield ValidationError(f"it is no {name}")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Errors:
    if isinstance(instance, Mapping):
        for pattern, inside in patterns.items():
            spend(5 + len(instance))
            found = automaton(pattern)
            for name, value in instance.items():
                if found is not None and found.accepts(name):
                    yield from validator.descend(value, inside, path=name, schema_path=pattern)


def _additional(validator: Any, extra: Any, instance: Any, schema: Any) -> Errors:
    if not isinstance(instance, Mapping):
        return
    patterns = [automaton(pattern) for pattern in schema.get("patternProperties", ())]
    for name, value in instance.items():
        spend(1 + len(patterns))
        named = name in schema.get("properties", ())
        if not named and not any(one is None or one.accepts(name) for one in patterns):
            yield from validator.descend(value, extra, path=name)


def _reference(follow: Keyword) -> Keyword:
    def counted(validator: Any, ref: Any, instance: Any, schema: Any) -> Errors:
        left = _left.get()
        left[0] -= 1
        if left[0] < 0:
            raise _TooMuch
        yield from follow(validator, ref, instance, schema)

    return counted


def _enum(validator: Any, values: Any, instance: Any, schema: Any) -> Errors:
    spend(len(values) >> 2)
    if known_by(instance) not in set(map(known_by, values)):
        yield ValidationError(f"{instance!r} is not one of the values of enum")


def _unique(validator: Any, wanted: Any, instance: Any, schema: Any) -> Errors:
    if wanted is True and isinstance(instance, list):
        spend(2 * len(instance))
        if len(set(map(known_by, instance))) < len(instance):
            yield ValidationError(f"{instance!r} has non-unique elements")


def _charged(follow: Keyword) -> Keyword:
    """A keyword that spends by what it goes through; what is inside spends for itself."""

    def charged(validator: Any, value: Any, instance: Any, schema: Any) -> Errors:
        work = 10
        for one in (value, instance):
            if isinstance(one, dict | list):
                work += len(one) >> 2
        spend(work)
        yield from follow(validator, value, instance, schema)

    return charged


_OURS: Mapping[str, Keyword] = {
    "enum": _enum,
    "uniqueItems": _unique,
    "format": _format,
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional,
    "$ref": _reference(Draft202012Validator.VALIDATORS["$ref"]),
    "$dynamicRef": _reference(Draft202012Validator.VALIDATORS["$dynamicRef"]),
}
_Validator: Any = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {
        name: _charged(keyword)
        for name, keyword in {**Draft202012Validator.VALIDATORS, **_OURS}.items()
    },
)
_NO_FORMATS = FormatChecker(formats=())  # its own judge of a pattern would be `re`


class Judge:
    """Judges texts by one schema. `unchecked` are its patterns that are not regular, which nobody
    checks: a warning for the client."""

    def __init__(self, schema: Any) -> None:
        """Raises Invalid for what is no schema."""
        spend(sum(map(_work_of, _objects(schema))))
        try:
            schema = _modern(schema)
            Draft202012Validator.check_schema(schema, format_checker=_NO_FORMATS)
            for pattern in _patterns(schema):
                _readable(pattern)
        except SchemaError as error:
            where = "/".join(map(str, error.path))
            raise Invalid(
                "response_format", f"is no JSON schema: {where}: {error.message[:MAX_MESSAGE]}"
            ) from None
        except RecursionError:
            raise Invalid("response_format", "is nested too deep") from None
        if _uses(schema, "unevaluatedProperties") and _uses(schema, "patternProperties"):
            # jsonschema looks for what was evaluated with `re`.
            raise Invalid(
                "response_format", "uses both unevaluatedProperties and patternProperties"
            )
        self.unchecked = tuple(p for p in dict.fromkeys(_patterns(schema)) if automaton(p) is None)
        self._validator: Any = _Validator(
            schema,
            registry=Registry(),
        )

    def fault(self, text: str) -> str:
        """What is wrong with a text; "" when it is JSON of the schema."""
        try:
            value = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            return f"it is no JSON: {error}"
        if not _finite(value):
            return "it holds a number that is none"
        token = _left.set([MAX_REFERENCES])
        try:
            found = next(self._validator.iter_errors(value), None)
        except TooMuchWork:
            raise  # there may be more room for it elsewhere
        except _TooMuch:
            return "it takes too much work to validate"
        except (RecursionError, Unresolvable):
            return "its schema refers to itself without end, or to nothing"
        finally:
            _left.reset(token)
        if found is None:
            return ""
        return f"at {found.json_path[:MAX_MESSAGE]}: {found.message[:MAX_MESSAGE]}"


_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_VALUES = frozenset({"const", "enum", "default", "examples"})


def _modern(schema: Any) -> Any:
    """The schema with tuples as the standard of today writes them: a list of `items` becomes
    `prefixItems`, and what was `additionalItems` beside it becomes `items`."""
    if not any(isinstance(one.get("items"), list) for one in _objects(schema)):
        return schema
    return _with_prefix_items(schema)


def _with_prefix_items(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_with_prefix_items(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    out = {}
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, Mapping):
            out[key] = {name: _with_prefix_items(inside) for name, inside in value.items()}
        else:
            out[key] = value if key in _VALUES else _with_prefix_items(value)
    if isinstance(out.get("items"), list):
        out["prefixItems"] = out.pop("items")
        if "additionalItems" in out:
            out["items"] = out.pop("additionalItems")
    return out


def _work_of(schema: Mapping[str, Any]) -> int:
    """Steps to look whether an object of a schema is one, each keyword by the metaschema."""
    return 60 + sum(
        150 + (len(value) if isinstance(value, list | dict | str) else 0)
        for value in schema.values()
    )


def _readable(pattern: str) -> None:
    """Raises SchemaError for what is no expression; what is one, but not regular, may pass."""
    try:
        read_pattern(pattern)
    except PatternError as error:
        if not error.unsupported:
            raise SchemaError(f"{pattern!r} is not a 'regex'") from None


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _uses(schema: Any, keyword: str) -> bool:
    return any(keyword in one for one in _objects(schema))


def _patterns(schema: Any) -> Iterator[str]:
    """Every pattern in a schema; what merely looks like one costs a needless warning at most."""
    for one in _objects(schema):
        if isinstance(one.get("pattern"), str):
            yield one["pattern"]
        named = one.get("patternProperties")
        if isinstance(named, Mapping):
            yield from named


def _objects(schema: Any) -> Iterator[Mapping[str, Any]]:
    todo = [schema]
    while todo:
        one = todo.pop()
        if isinstance(one, Mapping):
            yield one
            todo += one.values()
        elif isinstance(one, list):
            todo += one
