"""Large bodies of JSON do not hold up the loop.

What is decoded at once is bounded in objects, as that is what takes the time. Parsing is done in a
thread: it shares the interpreter with the loop, and gives it back every half a millisecond.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..aside import aside
from ..errors import BadRequest

T = TypeVar("T")
LARGE = 256 << 10  # bytes of a body
MAX_OBJECTS = 131_072
"""Objects and lists of one body: 50 ms to decode them. 16 384 messages with tools have a third."""

MAX_STRINGS = 262_144
"""Names of fields and strings of one body. A million of them took 0.9 s to decode."""

# What a list or an object begins with. Text in JSON has few of these: its quotes are escaped, and
# so are its tabs and its ends of lines.
_BEGINNINGS = tuple(b"%c%c" % (mark, after) for mark in b"{[" for after in b'"{[]} \n\r\t')


def check_objects(data: bytes) -> None:
    """Raises BadRequest for JSON of too many objects and lists, or of too many strings."""
    if len(data) <= LARGE:
        return
    # Text has quotes and braces too. To tell them apart takes longer, and is seldom needed.
    if data.count(b'"') > 2 * MAX_STRINGS:
        quotes = aside(lambda: data.count(b'"') - data.count(b'\\"'))
        if quotes > 2 * MAX_STRINGS:
            raise BadRequest(f"the body holds more than {MAX_STRINGS} names and strings")
    if data.count(b"{") + data.count(b"[") <= MAX_OBJECTS:
        return
    if aside(lambda: sum(map(data.count, _BEGINNINGS))) > MAX_OBJECTS:
        raise BadRequest(f"the body holds more than {MAX_OBJECTS} objects and lists")


def parsed(parse: Callable[[], T], environ: Mapping[str, Any]) -> T:
    """What `parse` makes of a request's body, which has been read."""
    length = environ.get("CONTENT_LENGTH")
    if length and int(length) < LARGE:
        return parse()
    return aside(parse)
