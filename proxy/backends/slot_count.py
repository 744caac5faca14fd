"""How many slots an old server has, which none of its routes says.

Strategy. An old server answers a request with an empty prompt at once: it evaluates nothing, and
what the slot holds stays warm. The answer names the slot. Without a wish it is the idle slot that
was used longest ago, so on an idle server these requests visit every slot once before they come
back to the first. A slot that is busy all the time is passed over, and the last one would not be
missed: so the first id that was not seen is asked for by name, which another slot must answer.

Any other order means that somebody else uses the server: then nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable

ANY = -1
MOST = 256

Ask = Callable[[int], "int | None"]
"""The id of the slot that answers a request for this one; None when none answers in time."""


def count_slots(ask: Ask) -> int:
    """The number of slots, 0 when the answers do not fit together or there are more than MOST.

    Sends up to two requests more than there are slots, and ends at the first that fails."""
    seen: list[int] = []
    while (slot := ask(ANY)) is not None and slot not in seen and len(seen) < MOST:
        seen.append(slot)
    count = len(seen)
    if not seen or slot != seen[0] or sorted(seen) != list(range(count)):
        return 0
    return count if ask(count) in seen else 0
