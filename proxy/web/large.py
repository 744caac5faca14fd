"""Keeps large JSON bodies from blocking the event loop.

Decoding is one call that cannot be interrupted, so its cost is checked first. Parsing runs in a
thread: it shares the interpreter with the loop, and yields to it every half a millisecond.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..core.decoding import is_clearly_cheap, is_dear
from ..errors import BadRequest
from ..runtime.blocking import run_in_native_thread

T = TypeVar("T")
LARGE = 256 << 10  # bytes; larger bodies are handled in a thread


def check_cost(data: bytes) -> None:
    """Raises BadRequest if this JSON takes too long to decode."""
    if costs_much(data):
        raise BadRequest(
            "the request body takes too long to decode: send fewer objects, names, numbers and"
            " escapes"
        )


def costs_much(data: bytes) -> bool:
    """Whether this JSON takes too long to decode."""
    if len(data) <= LARGE:
        return is_dear(data)
    return not is_clearly_cheap(data) and run_in_native_thread(lambda: is_dear(data))


def parsed(parse: Callable[[], T], environ: Mapping[str, Any], more: int = 0) -> T:
    """Call `parse`, in a thread if the request's body and `more` bytes are large together. The body
    must have been read."""
    length = environ.get("CONTENT_LENGTH")
    if length and int(length) + more < LARGE:
        return parse()
    return run_in_native_thread(parse)
