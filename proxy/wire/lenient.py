"""JSON of a backend that the strict decoder refuses, read as far as it makes sense.

Strategy. Strict decoders come first: they are fast, and nearly always enough. One byte that is no
UTF-8, or one odd field in one of a thousand events, must not cost the whole answer. So the data is
read again here:

- a byte that is no UTF-8, and half of a surrogate pair, become U+FFFD in their place;
- NaN and Infinity, which some servers write, become null;
- null, or a value of the wrong type, leaves a field at its default, except where the answer means
  nothing without it: see `VITAL`.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any, TypeVar, get_args

import msgspec
from msgspec import Struct

S = TypeVar("S", bound=Struct)

VITAL = frozenset(
    {
        "content",
        "stop",
        "error",
        "choices",
        "delta",
        "reasoning_content",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "probs",
        "tok_str",
        "token",
        "top_logprobs",
    }
)
"""Fields that must be of their type, or null: they carry the answer, its end or its failure."""


LONGEST = 4 << 20  # bytes that are mended: that takes ten times as long as to decode


class WireFault(ValueError):
    """The backend sent something that is no answer."""


def value(data: bytes) -> Any:
    """Any JSON value. Raises WireFault."""
    if len(data) > LONGEST:
        raise WireFault("too large to be mended")
    try:
        found = json.loads(data.decode("utf-8", "replace"), strict=False, parse_constant=_null)
        text = json.dumps(found, ensure_ascii=False)
        if _has_half_pairs(text):
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            return json.loads(text)
        return found
    except RecursionError:
        raise WireFault("the JSON is nested too deeply") from None
    except ValueError as error:
        raise WireFault(f"no JSON: {error}") from None


def decode(data: bytes, kind: type[S]) -> S:
    """A struct, odd fields left at their defaults. Raises WireFault."""
    return convert(value(data), kind)


def convert(raw: Any, kind: type[S]) -> S:
    """The same for a value that is decoded already. Raises WireFault."""
    found = _mended(raw, kind)
    if not isinstance(found, kind):
        raise WireFault("no JSON object")
    return found


def _mended(raw: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(raw, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        struct, element = _parts(kind)
        if struct is not None and isinstance(raw, dict):
            return _struct(raw, struct)
        if element is not None and isinstance(raw, list):
            return [_mended(one, element) for one in raw]
        raise WireFault(str(error)) from None


def _struct(raw: dict[str, Any], kind: type[Struct]) -> Struct:
    known: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if field.encode_name not in raw:
            continue
        given = raw[field.encode_name]
        try:
            known[field.name] = _mended(given, field.type)
        except WireFault as fault:
            if given is not None and field.name in VITAL:
                raise WireFault(f"{field.name}: {fault}") from None
    try:
        return kind(**known)
    except TypeError as error:  # a field without a default is missing
        raise WireFault(str(error)) from None


@cache
def _parts(kind: Any) -> tuple[type[Struct] | None, Any]:
    """The struct of a type, and the type of a list's elements; None where it has none."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        return kind, None
    parts = get_args(kind)
    if getattr(kind, "__origin__", None) is list:
        return None, parts[0]
    found = [_parts(part) for part in parts]
    struct = next((struct for struct, _ in found if struct is not None), None)
    return struct, next((element for _, element in found if element is not None), None)


def _has_half_pairs(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _null(_: str) -> None:
    return None
