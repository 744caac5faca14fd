"""How much is tried of what could be tried without end: all of it in ``make test-all``, a third in
``make test``. Every test runs in both."""

from __future__ import annotations

import os

ALL = os.environ.get("SLOTPROXY_TEST_ALL") == "1"


def share(count: int) -> int:
    """So many of `count` schemas, examples or seconds."""
    return count if ALL else count // 3
