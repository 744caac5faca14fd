"""Large bodies of JSON do not hold up the loop.

Decoding is one call that nothing interrupts, so what it may cost is bounded before it is begun.
Parsing is done in a thread: it shares the interpreter with the loop, and gives it back every half a
millisecond.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..aside import aside
from ..core.decoding import SHORT, is_dear
from ..errors import BadRequest

T = TypeVar("T")
LARGE = 256 << 10  # bytes of a body


def check_cost(data: bytes) -> None:
    """Raises BadRequest for JSON that takes too long to decode."""
    if costs_much(data):
        raise BadRequest(
            "the body takes too long to decode: send fewer objects, names, numbers and escapes"
        )


def costs_much(data: bytes) -> bool:
    """Whether this JSON takes too long to decode."""
    if len(data) <= SHORT:
        return False
    return is_dear(data) if len(data) <= LARGE else aside(lambda: is_dear(data))


def parsed(parse: Callable[[], T], environ: Mapping[str, Any], more: int = 0) -> T:
    """What `parse` makes of a request's body, which has been read, and of so many bytes besides."""
    length = environ.get("CONTENT_LENGTH")
    if length and int(length) + more < LARGE:
        return parse()
    return aside(parse)
