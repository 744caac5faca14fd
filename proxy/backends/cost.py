"""Refuses answers of backends that would block the event loop while they are decoded."""

from __future__ import annotations

from ..core.decoding import LONGEST, SHORT, is_dear
from ..errors import UpstreamFault
from ..runtime.blocking import run_in_native_thread


def check_cost(data: bytes, most: int = LONGEST) -> None:
    """Raises UpstreamFault for JSON that may take longer than `most` nanoseconds to decode."""
    if len(data) > SHORT and run_in_native_thread(lambda: is_dear(data, most)):
        raise UpstreamFault("the backend's response takes too long to decode")
