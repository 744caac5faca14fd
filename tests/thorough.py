"""The share of endless tests that is run: all in ``make test-all``, a fifth
otherwise. ``make test`` also leaves out what is marked slow, the server of 2026 and PostgreSQL."""

from __future__ import annotations

import os

ALL = os.environ.get("SLOTPROXY_TEST_ALL") == "1"
FEW = os.environ.get("SLOTPROXY_TEST_ALL") == "0"


def share(count: int) -> int:
    """So many of `count` schemas, examples or seconds."""
    return count if ALL else count // 5
