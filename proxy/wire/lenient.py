"""A lenient JSON decoder for backend data that the strict decoder refuses.

One odd byte or field in one of a thousand events must not cost the whole answer:

- a byte of invalid UTF-8, and half of a surrogate pair, become U+FFFD;
- NaN and Infinity, which some servers write, become null;
- null, or a value of the wrong type, leaves a field at its default, unless the answer is
  meaningless without it: see `VITAL`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, get_args

import msgspec
from msgspec import Struct

S = TypeVar("S", bound=Struct)

# Fields that must be of their type, or null: they carry the answer, its end or its failure.
VITAL = frozenset(
    "content stop error choices delta reasoning_content tool_calls function name arguments"
    " probs tok_str token top_logprobs".split()
)
LONGEST = 4 << 20  # bytes that are repaired, which takes ten times as long as decoding


class WireFault(ValueError):
    """The backend sent invalid data."""


def value(data: bytes) -> Any:
    """Decode any JSON value. Raises WireFault."""
    if len(data) > LONGEST:
        raise WireFault("too large to be mended")
    try:
        text = data.decode("utf-8", "replace")
        decoded = json.loads(text, strict=False, parse_constant=lambda _: None)
        text = json.dumps(decoded, ensure_ascii=False)
        return json.loads(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
    except RecursionError:
        raise WireFault("the JSON is nested too deeply") from None
    except ValueError as error:
        raise WireFault(f"not valid JSON: {error}") from None


def decoder(kind: type[S]) -> Callable[[bytes], S]:
    """A decoder of structs that is strict first, and lenient if that fails. It raises WireFault."""
    strict = msgspec.json.Decoder(kind).decode

    def strict_first(data: bytes) -> S:
        try:
            return strict(data)
        except (ValueError, RecursionError):
            return convert(value(data), kind)

    return strict_first


def convert(raw: Any, kind: type[S]) -> S:
    """A struct of a decoded value, with odd fields at their defaults. Raises WireFault."""
    mended = _mended(raw, kind)
    if not isinstance(mended, kind):
        raise WireFault("not a JSON object")
    return mended


def _mended(raw: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(raw, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        struct, element = _parts(kind)
        if struct is not None and isinstance(raw, dict):
            return _struct(raw, struct)
        if element is not None and isinstance(raw, list):
            return [_mended(item, element) for item in raw]
        raise WireFault(str(error)) from None


def _struct(raw: dict[str, Any], kind: type[Struct]) -> Struct:
    fields: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if field.encode_name not in raw:
            continue
        value = raw[field.encode_name]
        try:
            fields[field.name] = _mended(value, field.type)
        except WireFault as fault:
            if value is not None and field.name in VITAL:
                raise WireFault(f"{field.name}: {fault}") from None
    try:
        return kind(**fields)
    except TypeError as error:  # a field without a default is missing
        raise WireFault(str(error)) from None


@cache
def _parts(kind: Any) -> tuple[type[Struct] | None, Any]:
    """The struct of a type, and the element type of a list; None if there is none."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        return kind, None
    parts = get_args(kind)
    if getattr(kind, "__origin__", None) is list:
        return None, parts[0]
    nested = [_parts(part) for part in parts]
    struct = next((struct for struct, _ in nested if struct is not None), None)
    return struct, next((element for _, element in nested if element is not None), None)
