"""Counts the slots of an old server, which no route reports.

Strategy. An old server answers a request with an empty prompt immediately: it evaluates nothing,
and the slot's content stays. The answer names the slot: the requested one if it exists and is idle,
otherwise the least recently used idle one. So every answer proves that its slot exists, and with it
all lower numbers. The next number is requested until it was missed so often that every idle slot
has had its turn. Other clients of the server, also ones that count, take turns but disprove
nothing; only if they hold the last slots all the time is the count too small.
"""

from __future__ import annotations

from collections.abc import Callable

MOST = 256

Ask = Callable[[int], "int | None"]
"""The id of the slot that answers a request for this one; None when none answers in time."""


def count_slots(ask: Ask) -> tuple[int, bool]:
    """The number of slots, and whether each of them was seen idle. If not, somebody else uses the
    server, and there may be more. 0 if the server does not answer or names slots beyond MOST.

    Asks twice for each slot and once more, and stops at the first request without an answer."""
    seen: set[int] = set()
    count = missed = 0
    while missed <= count:
        slot = ask(count)
        if slot is None or not 0 <= slot < MOST:
            return 0, False
        seen.add(slot)
        if slot >= count:
            count, missed = slot + 1, 0
        else:
            missed += 1
    return count, len(seen) == count
