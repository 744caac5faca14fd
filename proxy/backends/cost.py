"""Answers of backends that would hold up the loop while they are decoded."""

from __future__ import annotations

from ..aside import aside
from ..core.decoding import LONGEST, SHORT, is_dear
from ..errors import UpstreamFault


def check_cost(data: bytes, most: int = LONGEST) -> None:
    """Raises UpstreamFault for JSON that may take longer than `most` nanoseconds to decode."""
    if len(data) > SHORT and aside(lambda: is_dear(data, most)):
        raise UpstreamFault("the backend's answer takes too long to decode")
