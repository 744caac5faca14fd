"""How many slots an old server has, which none of its routes says.

Strategy. An old server answers a request with an empty prompt at once: it evaluates nothing, and
what the slot holds stays warm. The answer names the slot: the one asked for where it exists and is
idle, else the idle one that was used longest ago. So every answer proves that its slot exists, and
with it all below. The next id is asked for until it was missed so often that every idle slot has
had its turn. Others that use the server, or count at the same time, take turns but disprove
nothing; only where they hold the last slots all the time is the count too small.
"""

from __future__ import annotations

from collections.abc import Callable

MOST = 256

Ask = Callable[[int], "int | None"]
"""The id of the slot that answers a request for this one; None when none answers in time."""


def count_slots(ask: Ask) -> tuple[int, bool]:
    """The number of slots, and whether each of them was seen idle: if not, somebody else uses the
    server, and there may be more. 0 when it does not answer or names slots beyond MOST.

    Asks twice for each slot and once more, and ends at the first question without an answer."""
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
