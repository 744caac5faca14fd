"""LoRA adapters: what a request says about them, and which a server has.

A server that has adapters applies each with the scale that it was started with, or that a request
gives in `lora`. What it has evaluated with one set of adapters is wrong for any other set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from ..errors import InvalidParameter, Unsupported

MOST = 64  # adapters of a server, and entries of a request
LARGEST = 100.0  # scale of an adapter, in either direction
ADAPTED = "\0"  # separates a group of keys from the adapters of its requests

# llama-server's own field, or the name of one adapter, if the name of the model chose it.
Lora = Sequence[dict[str, Any]] | str


class Adapter(Struct, frozen=True):
    """An adapter of a server, by the server's number for it. `scale` is what requests get that do
    not choose."""

    id: int
    name: str
    scale: float = 1.0


def check(value: Any) -> list[dict[str, Any]]:
    """The field `lora` of a request, as [{"id": 0, "scale": 0.5}]. Raises InvalidParameter."""
    if not isinstance(value, list) or len(value) > MOST:
        raise InvalidParameter("lora", f"must be a list of at most {MOST} objects")
    scales: dict[int, float] = {}
    for entry in value:
        fields = entry if type(entry) is dict else {}
        number: Any = fields.get("id")
        scale: Any = fields.get("scale")
        if type(number) is not int or not 0 <= number < MOST:
            raise InvalidParameter("lora", f"must have an id from 0 to {MOST - 1} in each object")
        if type(scale) not in (int, float) or not -LARGEST <= scale <= LARGEST:
            text = f"must have a scale from {-LARGEST:g} to {LARGEST:g} in each object"
            raise InvalidParameter("lora", text)
        scales[number] = scale
    return [{"id": number, "scale": scales[number]} for number in sorted(scales)]


def group_of(group: str, lora: Lora | None) -> str:
    """Whose cache a request may use: that of its `group` of keys, for these adapters alone."""
    if not lora:
        return group
    if not isinstance(lora, str):
        lora = " ".join(f"{entry['id']}={entry['scale']!r}" for entry in lora if entry["scale"])
    return group + ADAPTED + lora


def for_server(lora: Lora, adapters: Sequence[Adapter]) -> list[dict[str, Any]]:
    """The field for a server with these adapters, [] if there is nothing to say. Raises
    Unsupported."""
    if not adapters and (isinstance(lora, str) or any(entry["scale"] for entry in lora)):
        raise Unsupported(
            "lora: this model's backend has no LoRA adapters. Start its llama-server with"
            " --lora FILE, or leave the field out",
            param="lora",
        )
    numbers = {adapter.name: adapter.id for adapter in adapters}
    if isinstance(lora, str):
        if lora not in numbers:
            raise Unsupported(f"this model's backend has no adapter {lora!r}", param="model")
        return [{"id": numbers[lora], "scale": 1.0}]
    for entry in lora if adapters else ():
        if entry["id"] not in numbers.values():
            names = ", ".join(f"{number} ({name})" for name, number in numbers.items())
            text = f"lora: this model's backend has no adapter {entry['id']}, but {names}"
            raise Unsupported(text, param="lora")
    return [*lora] if adapters else []
