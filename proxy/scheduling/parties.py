"""Who was here lately, so that the last free slot is not taken by who has others already.

A party is a key and whether the request is small: so one slot stays within reach of who asks for
little or seldom, but only while there is such a one: a party that was here a moment ago and has
nothing under way now.
"""

from __future__ import annotations

from collections import OrderedDict

from .knowledge import CHARS_A_TOKEN
from .state import Want

LATELY = 30.0  # seconds
REMEMBERED = 256
SMALL = 256  # tokens of prompt and answer that a small request has at most
ANSWER = 256  # tokens an answer is thought to have where no limit is set

Party = tuple[str, bool]


def party(want: Want) -> Party:
    """Whose request it is, and whether it is small."""
    asked = want.task.max_tokens or ANSWER
    return want.key, want.aside or asked + want.chain.size / CHARS_A_TOKEN <= SMALL


class Parties:
    def __init__(self) -> None:
        self.seen: OrderedDict[Party, float] = OrderedDict()  # the latest last
        self.under_way: dict[Party, int] = {}

    def came(self, party: Party, now: float) -> None:
        seen = self.seen
        seen[party] = now
        seen.move_to_end(party)
        if len(seen) > REMEMBERED:
            seen.popitem(last=False)

    def took(self, party: Party) -> None:
        self.under_way[party] = self.under_way.get(party, 0) + 1

    def gave(self, party: Party, now: float) -> None:
        left = self.under_way[party] - 1
        if left:
            self.under_way[party] = left
        else:
            del self.under_way[party]
        self.came(party, now)

    def greedy(self, party: Party, now: float) -> bool:
        """Whether it has something under way while another was here lately that has nothing."""
        if not self.under_way.get(party):
            return False
        for other, at in reversed(self.seen.items()):
            if now - at > LATELY:
                return False
            if other != party and not self.under_way.get(other):
                return True
        return False
