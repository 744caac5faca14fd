"""The pieces that JSON schemas of bodies and answers are made of.

A field of a body has a description, for the reference, and an example, which tests give to its
parser. Names of required fields are in one text, separated by blanks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from ..core import sampling
from ..core.adapters import LARGEST, MOST
from . import fields
from .fields import Body, Table

Schema = dict[str, Any]


class Field(NamedTuple):
    """A field of an API: its description, the name of the parsed value, and its parser."""

    schema: Schema
    key: str
    read: Callable[[Body, str], Any]


Fields = Mapping[str, Schema | Field]
"""The fields of a body, each declared once. Its API's own code parses those that are only
described. A field that is not declared gets a warning (`fields.ignored_fields`)."""


def table(fields: Fields) -> Table:
    """What `fields.read` parses."""
    return {name: field[1:] for name, field in fields.items() if isinstance(field, Field)}


def read_all(body: Body, fields: Fields) -> dict[str, Any]:
    """The parsed values of all these fields: of absent ones, the default."""
    return {key: read(body, name) for name, (key, read) in table(fields).items()}


NULL: Schema = {"type": "null"}
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer"}
OBJECT: Schema = {"type": "object"}


def list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def object_of(required: str = "", /, **fields: Schema) -> Schema:
    schema: Schema = {"type": "object", "properties": fields}
    return {**schema, "required": required.split()} if required else schema


STRINGS = list_of(TEXT)


def _of(kind: str, description: str, example: Any, **more: Any) -> Schema:
    return {"type": kind, "description": description, "examples": [example], **more}


def text(description: str, example: str = "text", **more: Any) -> Schema:
    return _of("string", description, example, **more)


def flag(description: str, default: bool = False) -> Schema:
    return _of("boolean", description, default, default=default)


def count(description: str, low: int, high: int, example: int) -> Schema:
    return _of("integer", description, example, minimum=low, maximum=high)


def number(description: str, low: float, high: float, example: float) -> Schema:
    return _of("number", description, example, minimum=low, maximum=high)


def binary(description: str) -> Schema:
    return _of("string", description, "", contentMediaType="application/octet-stream")


def array(description: str, example: list[Any], items: Schema | None = None, **more: Any) -> Schema:
    return _of("array", description, example, items=items or {}, **more)


def strings(description: str, *example: str, **more: Any) -> Schema:
    return array(description, list(example), TEXT, **more)


def mapping(description: str, example: dict[str, Any], **more: Any) -> Schema:
    return _of("object", description, example, **more)


def text_field(
    key: str,
    description: str,
    example: str = "text",
    read: Callable[[Body, str], Any] = fields.text,
    **more: Any,
) -> Field:
    return Field(text(description, example, **more), key, read)


def flag_field(key: str, description: str, default: bool = False) -> Field:
    return Field(flag(description, default), key, partial(fields.flag, default=default))


def count_field(
    key: str, description: str, low: int, high: int, example: int, default: int | None = None
) -> Field:
    """An integer; `default` if it is absent or 0."""
    schema = count(description, low, high, example)
    return Field(schema, key, lambda body, name: fields.integer(body, name, low, high) or default)


def one_of(description: str, example: Any, *kinds: Schema) -> Schema:
    return {"anyOf": list(kinds), "description": description, "examples": [example]}


def body(required: str = "", /, **fields: Schema | Field) -> Schema:
    """An object. A field that is not required may also be null, which counts as absent."""
    needed = required.split()
    described = {
        name: field.schema if isinstance(field, Field) else field for name, field in fields.items()
    }
    schemas = {
        name: schema if name in needed else _or_null(schema) for name, schema in described.items()
    }
    return object_of(required, **schemas)


def _or_null(schema: Schema) -> Schema:
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], NULL]}
    nullable = {**schema, "type": [schema["type"], "null"]}
    return {**nullable, "enum": [*schema["enum"], None]} if "enum" in schema else nullable


_ARRAYS = ("strings", "samplers")
_LORA: Schema = {
    "type": "array",
    "items": object_of(
        "id scale",
        id=count("The server's number for it.", 0, MOST - 1, 0),
        scale=number("How much it counts: 0 for not at all.", -LARGEST, LARGEST, 0.5),
    ),
}
_EXAMPLES: Mapping[str, Any] = {
    "grammar": 'root ::= "a"',
    "samplers": ["top_k", "temperature"],
    "dry_sequence_breakers": ["\n"],
    "lora": [{"id": 0, "scale": 0}],
}


def _sampler(name: str, field: sampling.Field) -> Schema:
    schema: Schema = {"type": field.kind, "description": "A sampler setting of llama.cpp."}
    if field.since > 2023:
        schema["description"] = "A sampler setting of today's llama-server."
    if field.kind in _ARRAYS:
        schema |= STRINGS
    if field.kind == "lora":
        schema |= _LORA | {"description": "The scales of a llama-server's LoRA adapters."}
    if math.isfinite(field.low):
        schema["minimum"] = field.low
    if math.isfinite(field.high):
        schema["maximum"] = field.high
    example = _EXAMPLES.get(name, field.kind == "boolean" or max(0, field.low))
    return {**schema, "examples": [example]}


SAMPLERS = {name: _sampler(name, field) for name, field in sampling.FIELDS.items()}

USER_MESSAGE = [{"role": "user", "content": "Hello!"}]
MODEL = text("The model's name. With a single model, any name is accepted.", "any")
STREAM = flag("Stream the answer while it is generated.")
CAPTURE = flag("false: the gateway does not capture this request.", True)
