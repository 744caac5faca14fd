"""The pieces that JSON schemas of bodies are made of.

A field has a description, for the reference, and an example, which tests give to its parser.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..core.sampling import FIELDS, Field

Schema = dict[str, Any]
NULL: Schema = {"type": "null"}


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
    """A file of a form."""
    return _of("string", description, "", contentMediaType="application/octet-stream")


def array(description: str, example: list[Any], items: Schema | None = None) -> Schema:
    return _of("array", description, example, items=items or {})


def mapping(description: str, example: dict[str, Any], **more: Any) -> Schema:
    return _of("object", description, example, **more)


def one_of(description: str, example: Any, *kinds: Schema) -> Schema:
    return {"anyOf": list(kinds), "description": description, "examples": [example]}


def body(properties: Mapping[str, Schema], *required: str) -> Schema:
    """An object. A field that is not required may also be null, which counts as absent."""
    fields = {
        name: schema if name in required else _or_null(schema)
        for name, schema in properties.items()
    }
    made: Schema = {"type": "object", "properties": fields}
    return {**made, "required": list(required)} if required else made


def _or_null(schema: Schema) -> Schema:
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], NULL]}
    nullable = {**schema, "type": [schema["type"], "null"]}
    return {**nullable, "enum": [*schema["enum"], None]} if "enum" in schema else nullable


_TYPES = {
    "number": "number",
    "integer": "integer",
    "boolean": "boolean",
    "string": "string",
    "strings": "array",
    "samplers": "array",
}
_EXAMPLES: Mapping[str, Any] = {
    "grammar": 'root ::= "a"',
    "samplers": ["top_k", "temperature"],
    "dry_sequence_breakers": ["\n"],
}


def _sampler(name: str, field: Field) -> Schema:
    schema: Schema = {"type": _TYPES[field.kind], "description": "A sampler setting of llama.cpp."}
    if field.since > 2023:
        schema["description"] = "A sampler setting of today's llama-server."
    if schema["type"] == "array":
        schema["items"] = {"type": "string"}
    if math.isfinite(field.low):
        schema["minimum"] = field.low
    if math.isfinite(field.high):
        schema["maximum"] = field.high
    example = _EXAMPLES.get(name, field.kind == "boolean" or max(0, field.low))
    return {**schema, "examples": [example]}


SAMPLERS = {name: _sampler(name, field) for name, field in FIELDS.items()}
STRINGS: Schema = {"type": "array", "items": {"type": "string"}}
OBJECT: Schema = {"type": "object"}

MODEL = text("The model's name. With a single model, any name is accepted.", "any")
STREAM = flag("Stream the answer while it is generated.")
