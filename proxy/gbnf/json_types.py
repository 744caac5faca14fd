"""The types of JSON values, and equality as JSON schema defines it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TYPES: dict[str, frozenset[str]] = {
    **{kind: frozenset((kind,)) for kind in "null boolean integer string array object".split()},
    "number": frozenset(("integer", "fraction")),
}
ALL_TYPES = frozenset().union(*TYPES.values())


def types_named(named: Any) -> frozenset[str] | None:
    """The types of a value of `type`; None if it is invalid."""
    names = named if isinstance(named, list | tuple) else [named]
    if not names or not all(isinstance(name, str) and name in TYPES for name in names):
        return None
    return frozenset().union(*(TYPES[name] for name in names))


def type_of(value: Any) -> str:
    """The type of a JSON value; a float with an integral value is an integer, as in JSON Schema."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "integer"
    if isinstance(value, float):
        return "fraction"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, Mapping) else "array"


def known_by(value: Any) -> object:
    """A key that is equal for equal JSON values only: 1 and 1.0 are equal, 1 and true are not."""
    kind = type_of(value)
    if kind == "array":
        return kind, tuple(map(known_by, value))
    if kind == "object":
        return kind, frozenset((name, known_by(inside)) for name, inside in value.items())
    return kind, value


def as_schema(value: Any) -> dict[str, Any]:
    """A schema that only this object or array satisfies, without const at its top."""
    if isinstance(value, Mapping):
        return {
            "type": "object",
            "properties": {name: {"const": inside} for name, inside in value.items()},
            "required": list(value),
            "additionalProperties": False,
        }
    return {
        "type": "array",
        "prefixItems": [{"const": inside} for inside in value],
        "items": False,
        "minItems": len(value),
    }


def depth_of(value: Any) -> int:
    """The nesting depth of lists and objects."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, Mapping | list | tuple)]:
        depth += 1
        level = [
            x for item in level for x in (item.values() if isinstance(item, Mapping) else item)
        ]
    return depth


# The formats of JSON schema as patterns and ranges; all others are annotations. Sources: RFC 3339
# for date, time, date-time and duration, RFC 4122 for uuid, RFC 2673 for ipv4, RFC 4291 for ipv6,
# RFC 3986 and 3987 for uri, iri and their references, RFC 6570 for uri-template, RFC 6901 for
# json-pointer, RFC 1123 for hostname, the dot-atom form of RFC 5321 for email, and the OpenAPI
# format registry for numbers.
#
# Each rule is what all validators accept. Dates must exist. Hosts of URIs are names or IPv4. A
# regex has two levels of groups at most, since brackets of any depth are not regular.

_CENTURY_LEAP = r"(?:0[48]|[2468][048]|[13579][26])"
_LEAP = rf"(?:[0-9][0-9]{_CENTURY_LEAP}|{_CENTURY_LEAP}00)"
_YEAR = r"(?:[1-9][0-9]{3}|0(?:[1-9][0-9]{2}|0(?:[1-9][0-9]|0[1-9])))"
_DAY = (
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    r"|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_DATE = rf"(?:{_YEAR}-{_DAY}|{_LEAP}-02-29)"
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_CLOCK}:[0-5][0-9](?:\.[0-9]{{1,9}})?(?:Z|[+-]{_CLOCK})"
_N = "[0-9]{1,9}"
_TIMES = rf"T(?:{_N}H(?:{_N}M(?:{_N}S)?)?|{_N}M(?:{_N}S)?|{_N}S)"
_DAYS = rf"(?:{_N}Y(?:{_N}M(?:{_N}D)?)?|{_N}M(?:{_N}D)?|{_N}D)"

_HEX = "[0-9a-fA-F]"
_BYTE = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"(?:{_BYTE}\.){{3}}{_BYTE}"
_H16 = f"{_HEX}{{1,4}}"
_LS32 = f"(?:{_H16}:{_H16}|{_IPV4})"
_IPV6 = "|".join(
    (
        f"(?:{_H16}:){{6}}{_LS32}",
        f"::(?:{_H16}:){{5}}{_LS32}",
        *(
            f"(?:(?:{_H16}:){{0,{4 - after}}}{_H16})?::(?:{_H16}:){{{after}}}{_LS32}"
            for after in range(4, -1, -1)
        ),
        f"(?:(?:{_H16}:){{0,5}}{_H16})?::{_H16}",
        f"(?:(?:{_H16}:){{0,6}}{_H16})?::",
    )
)

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_WIDE = r"\u00A0-\uD7FF\uF900-\uFDCF\uFDF0-\uFFEF\u{10000}-\u{1FFFD}\u{20000}-\u{2FFFD}"
_WIDE_LABEL = rf"[A-Za-z0-9{_WIDE}]+(?:-[A-Za-z0-9{_WIDE}]+)*"
_STEPS = r"(?:/(?:[^~/]|~[01])*)*"


def _uri(also: str) -> tuple[str, str]:
    """The patterns of a URI and of a relative reference, with the characters `also` allowed."""
    free = rf"A-Za-z0-9._~!$&'()*+,;=\-{also}"
    code = f"%{_HEX}{_HEX}"
    char = f"(?:[{free}:@]|{code})"
    host = rf"(?:(?:[{free}:]|{code})*@)?(?:[{free}]|{code})*(?::[0-9]*)?"
    path = f"(?:/{char}*)*"
    end = rf"(?:\?(?:[{free}:@/?]|{code})*)?(?:#(?:[{free}:@/?]|{code})*)?"
    absolute = f"//{host}{path}|/(?:{char}+{path})?|"
    whole = rf"[A-Za-z][A-Za-z0-9+.-]*:(?:{absolute}{char}+{path}){end}"
    relative = rf"(?:{absolute}(?:[{free}@]|{code})+{path})?{end}"
    return f"^{whole}$", f"^(?:{whole}|{relative})$"


def _regex() -> str:
    literal = r"[^\\^$.|?*+(){}\[\]\x00-\x1f]"
    escape = r"\\[dDwWsStnrfv0.|?*+(){}\[\]^$/\\-]"
    inside = r"(?:a-z|A-Z|0-9|a-f|A-F|[A-Za-z0-9_ .,:;/@#%&+*?=!'\"~]|\\[dwsDWSnrt.\[\]\\/^$-])"
    atom = rf"{literal}|{escape}|\.|\[\^?{inside}+-?\]"
    times = r"(?:(?:[*+?]|\{[0-9]{1,3},?\})\??)?"
    level = rf"(?:(?:{atom}){times})*"
    for _ in range(2):
        group = rf"\((?:\?:)?{level}(?:\|{level})*\)"
        level = rf"(?:(?:{atom}|{group}){times})*"
    part = rf"\^?{level}\$?"
    return rf"^{part}(?:\|{part})*$"


_URI, _URI_REFERENCE = _uri("")
_IRI, _IRI_REFERENCE = _uri(_WIDE)
_NAME = rf"(?:[A-Za-z0-9_.]|%{_HEX}{_HEX})+(?::[1-9][0-9]{{0,3}}|\*)?"

PATTERNS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "duration": rf"^P(?:{_N}W|{_DAYS}(?:{_TIMES})?|{_TIMES})$",
    "uuid": f"^{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}$",
    "email": rf"^{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*$",
    "idn-email": rf"^[A-Za-z0-9_+{_WIDE}-]+(?:\.[A-Za-z0-9_+{_WIDE}-]+)*"
    rf"@{_WIDE_LABEL}(?:\.{_WIDE_LABEL})*$",
    "hostname": rf"^{_LABEL}(?:\.{_LABEL})*$",
    "idn-hostname": rf"^{_WIDE_LABEL}(?:\.{_WIDE_LABEL})*$",
    "ipv4": rf"^{_IPV4}$",
    "ipv6": rf"^(?:{_IPV6})$",
    "uri": _URI,
    "uri-reference": _URI_REFERENCE,
    "iri": _IRI,
    "iri-reference": _IRI_REFERENCE,
    "uri-template": rf"^(?:[A-Za-z0-9._~!$&()*+,;=:@/?#\[\]-]|%{_HEX}{_HEX}"
    rf"|\{{[+#./;?&]?{_NAME}(?:,{_NAME})*\}})*$",
    "json-pointer": f"^{_STEPS}$",
    "relative-json-pointer": rf"^(?:0|[1-9][0-9]{{0,8}})(?:#|{_STEPS})$",
    "regex": _regex(),
}
"""Patterns of the formats of strings, by name."""

INTEGERS = {
    **{f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}
"""Lowest and highest value of the formats of integers. A number of the format float or double is a
JSON number, and slotproxy's numbers always fit a double."""
