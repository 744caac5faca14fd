"""Arguments that models write between tags: text that becomes JSON of the type in the schema.

Where the schema allows strings and more, the text is JSON if that has another type that the schema
allows, else a string.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ...gbnf.json_types import ALL_TYPES, type_of, types_named
from .base import NAME, CallShape
from .reader import MAX_HELD, CallReader, Malformed, Wait
from .scanner import is_json

STRING = frozenset({"string"})
WORDS = {"True": "true", "False": "false", "None": "null"}
_MAX_NESTED = 16


def typed_until(reader: CallReader, close: str, allowed: frozenset[str]) -> Wait:
    """Takes an argument of these types up to `close`, and `close`. Strings stream."""
    if allowed == STRING:
        yield from quoted_until(reader, close, reader.arguments)
    else:
        reader.arguments(typed((yield from reader.until(close, MAX_HELD)), allowed))


def typed(text: str, allowed: frozenset[str]) -> str:
    """An argument as JSON of one of these types, if it can be."""
    value = WORDS.get(text.strip(), text.strip())
    if allowed == STRING or not is_json(value):
        return quoted(text)
    # As JSON a string is no other type.
    other = not value.startswith('"') and type_of(json.loads(value)) in allowed
    return value if other or "string" not in allowed else quoted(text)


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def inside(text: str) -> str:
    """The text as it stands inside a JSON string."""
    return quoted(text)[1:-1]


def quoted_until(reader: CallReader, mark: str, sink: Callable[[str], None]) -> Wait:
    """Passes the text up to `mark` to the sink as a JSON string, and takes the mark."""
    sink('"')
    yield from stream_until(reader, mark, lambda text: sink(inside(text)))
    sink('"')


def stream_until(reader: CallReader, mark: str, sink: Callable[[str], None]) -> Wait:
    """Passes the text up to `mark` to the sink as it streams, and takes the mark."""
    if not (yield from reader.up_to(mark, sink)):
        raise Malformed


def member(schema: Any, key: str, root: Any) -> Any:
    """The schema of a member of an object; True if there is none."""
    others: Any = True
    for part in _parts(schema, root):
        properties, more = part.get("properties"), part.get("additionalProperties")
        if isinstance(properties, Mapping) and key in properties:
            return properties[key]
        if others is True and isinstance(more, Mapping):
            others = more
    return others


def items(schema: Any, root: Any) -> Any:
    return next(
        (p["items"] for p in _parts(schema, root) if isinstance(p.get("items"), dict)), True
    )


def kinds(schema: Any, root: Any, depth: int = 0) -> frozenset[str]:
    """The JSON types that a schema allows; all if that is not clear."""
    schema = _resolved(schema, root)
    if not isinstance(schema, Mapping) or depth > _MAX_NESTED:
        return ALL_TYPES
    allowed = types_named(schema.get("type")) or ALL_TYPES
    if schema.get("nullable") is True:
        allowed |= {"null"}
    if "const" in schema:
        allowed &= {type_of(schema["const"])}
    if isinstance(schema.get("enum"), list):
        allowed &= {*map(type_of, schema["enum"])}
    for word in ("anyOf", "oneOf"):
        if isinstance(schema.get(word), list):
            parts = (kinds(part, root, depth + 1) for part in schema[word])
            allowed &= frozenset().union(*parts)
    if isinstance(schema.get("allOf"), list):
        for part in schema["allOf"]:
            allowed &= kinds(part, root, depth + 1)
    return allowed or ALL_TYPES


def _parts(schema: Any, root: Any, depth: int = 0) -> list[Mapping[str, Any]]:
    """A schema and its alternatives, references resolved."""
    schema = _resolved(schema, root)
    if not isinstance(schema, Mapping) or depth > _MAX_NESTED:
        return []
    parts = [schema]
    for word in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(word), list):
            for part in schema[word]:
                parts += _parts(part, root, depth + 1)
    return parts


def _resolved(schema: Any, root: Any) -> Any:
    """A schema without references: True where one leads nowhere."""
    for _ in range(_MAX_NESTED):
        if not isinstance(schema, Mapping) or not isinstance(schema.get("$ref"), str):
            return schema
        target = root
        for name in schema["$ref"].removeprefix("#").strip("/").split("/"):
            name = name.replace("~1", "/").replace("~0", "~")
            if name:
                target = target.get(name) if isinstance(target, Mapping) else None
        schema = True if target is None else target
    return True


# Writes calls in the form of a shape.


def write_calls(shape: CallShape, *calls: tuple[str, Mapping[str, Any]]) -> str:
    texts = [
        shape.before_name
        + name
        + shape.after_name.replace(NAME, name)
        + write_arguments(shape, arguments)
        + shape.suffix
        for name, arguments in calls
    ]
    return shape.prefix + shape.separator.join(texts) + shape.end


def write_arguments(shape: CallShape, arguments: Mapping[str, Any]) -> str:
    tags = shape.tagged
    if tags is None:
        return json.dumps(arguments, ensure_ascii=False)
    written = []
    for key, value in arguments.items():
        before, after = tags.around(key, type_of(value))
        is_text = isinstance(value, str) and not tags.json_text
        text = value if is_text else json.dumps(value, ensure_ascii=False)
        written.append(before + text + after)
    return tags.separator.join(written)
