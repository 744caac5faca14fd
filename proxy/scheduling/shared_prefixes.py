"""Prefixes that several conversations share, such as system prompts, and how often they are needed.

The chance that a prefix is needed again grows with the number of conversations that began with it,
and falls while none does, compared with the usual gap between two of them.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from msgspec import Struct

from .prefix import Chain

REMEMBERED = 1024  # prefixes of a pool
RECENT = 4096  # links of recent prompts, of which each may be shared by the next
DEEPEST = 64  # links of a prompt that are remembered
FIRST_SHARED = 2  # conversations that make a prefix a shared one
GAP = 60.0  # seconds between two conversations with a prefix, before that is known
SHORTEST = 10.0  # seconds that count as the usual gap, at least: a busy hour may pause
SMOOTH = 0.1  # weight of the newest gap in the mean: many may begin at once
PATIENCE = 3.0  # usual gaps of silence after which a prefix is a third as likely to be needed


class SharedPrefix(Struct, array_like=True):
    """`tokens` of a prefix, and the `conversations` that began with it: the last one at `last`,
    one every `gap` seconds."""

    tokens: int
    conversations: int
    gap: float
    last: float

    def __post_init__(self) -> None:
        if not (self.gap >= 0 and self.conversations > 0 and self.tokens >= 0):
            raise ValueError("a shared prefix is broken")

    def begun(self, now: float) -> None:
        """Count a conversation that begins with this prefix."""
        self.gap += SMOOTH * (max(0.0, now - self.last) - self.gap)
        self.conversations += 1
        self.last = now

    def chance(self, now: float) -> float:
        """The probability that another conversation begins with it."""
        likely = self.conversations / (self.conversations + 1)
        silent = likely * math.exp(
            -max(0.0, now - self.last) / (PATIENCE * max(SHORTEST, self.gap))
        )
        return silent / (silent + 1 - likely)


class SharedPrefixes:
    """The prefixes of a pool by their last link, the least recently needed first. `recent` are the
    links of the newest prompts, so that a prefix is recognized though nothing holds it any more."""

    def __init__(self) -> None:
        self.known: OrderedDict[bytes, SharedPrefix] = OrderedDict()
        self.recent: OrderedDict[bytes, None] = OrderedDict()

    def longest(self, links: tuple[bytes, ...]) -> bytes:
        """The last link of the longest known prefix of a chain, b"" if none is known."""
        if self.known:
            for link in reversed(links):
                if link in self.known:
                    return link
        return b""

    def begin(self, chain: Chain, tokens_a_unit: float, now: float) -> bytes:
        """Count a conversation for the longest prefix that it shares with another; return the last
        link of that, b"" if it shares none. `tokens_a_unit`: of the chain's ends."""
        known, recent = self.known, self.recent
        found = b""
        for depth in range(len(chain.links), 0, -1):
            link = chain.links[depth - 1]
            if link in known:
                known[link].begun(now)
                known.move_to_end(link)
                found = link
                break
            if link in recent:
                tokens = int(chain.ends[depth - 1] * tokens_a_unit)
                known[link] = SharedPrefix(tokens, FIRST_SHARED, GAP, now)
                found = link
                break
        for link in chain.links[:DEEPEST]:
            recent[link] = None
            recent.move_to_end(link)
        while len(recent) > RECENT:
            recent.popitem(last=False)
        if len(known) > REMEMBERED:
            known.popitem(last=False)
        return found
