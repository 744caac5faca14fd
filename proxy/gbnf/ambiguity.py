"""Detects ambiguous grammars that would overload a sampler that keeps equal parse stacks.

If a text has several derivations, the old sampler keeps all of them: `("a" | "a")*` doubles its
work with every character until it hangs or runs out of memory. Whether any text does so is
undecidable, but a short best-first search finds what occurs in practice: it extends the text with
the most stacks, and visits a state again only with more stacks than before.

Only growth that doubles with about every character is rejected. Slower growth is allowed on
purpose: llama.cpp's own JSON grammar has two derivations for every one-digit number.
"""

from __future__ import annotations

from heapq import heappop, heappush

from .charset import contains
from .effort import spend
from .match import DONE, Program
from .values import Grammar

MAX_STACKS = 5_000
"""Maximum parse stacks. Each is matched against the whole vocabulary at every token."""

LENGTH = 16
"""Maximum characters of the texts tried; doubling exceeds MAX_STACKS after 13."""

WORK = 4_000
"""Maximum stacks advanced in total, which limits the cost of a check."""

_CANDIDATES = 16
"""Characters tried after each text."""


def too_ambiguous(grammar: Grammar) -> str | None:
    """A text after which there are more than MAX_STACKS stacks; None if none was found."""
    walk = _Walk(Program(grammar))
    start = walk.start()
    # Most stacks first; the growing second value breaks ties.
    heap = [(-sum(start.values()), 0, "", start)]
    seen = {frozenset(start): sum(start.values())}
    work = 0
    while heap and work < WORK:
        total, _, text, states = heappop(heap)
        if -total > MAX_STACKS:
            return text
        if len(text) == LENGTH:
            continue
        for code in walk.candidates(states):
            work += len(states)
            following = walk.step(states, code)
            key, total = frozenset(following), sum(following.values())
            if total > seen.get(key, 0):
                seen[key] = total
                heappush(heap, (-total, work, text + chr(code), following))
    return None


class _Walk:
    def __init__(self, program: Program) -> None:
        self.program = program
        # For each stack: the stacks with a character on top that it leads to, and in how many ways.
        self.tops: dict[int, dict[int, int]] = {DONE: {DONE: 1}}

    def start(self) -> dict[int, int]:
        states: dict[int, int] = {}
        for stack in self.program.starts:
            _add(states, self.counted(stack), 1)
        return states

    def candidates(self, states: dict[int, int]) -> list[int]:
        """The first characters of the states' ranges: those where the choice differs."""
        begins: dict[int, int] = {}
        spend(len(states))
        for state, count in states.items():
            if state != DONE:
                for low, _ in self.program.charset(state)[:_CANDIDATES]:
                    begins[low] = begins.get(low, 0) + count
        return sorted(begins, key=lambda low: (-begins[low], low))[:_CANDIDATES]

    def step(self, states: dict[int, int], code: int) -> dict[int, int]:
        following: dict[int, int] = {}
        for state, count in states.items():
            if state != DONE and contains(self.program.charset(state), code):
                _add(following, self.counted(self.program.below(state)), count)
        return following

    def counted(self, stack: int) -> dict[int, int]:
        """Like `Program.expand`, with the number of ways to each stack. Iterative, deepest first;
        without left recursion no stack leads to itself."""
        todo = [stack]
        while todo:
            current = todo[-1]
            if current in self.tops:
                todo.pop()
                continue
            following = self.program.replace(current)
            if following is None:
                self.tops[current] = {current: 1}
            elif missing := [one for one in following if one not in self.tops]:
                todo += missing
            else:
                found: dict[int, int] = {}
                for one in following:
                    _add(found, self.tops[one], 1)
                self.tops[current] = found
        return self.tops[stack]


def _add(counts: dict[int, int], more: dict[int, int], times: int) -> None:
    spend(1 + (len(more) >> 2))
    for state, count in more.items():
        counts[state] = min(counts.get(state, 0) + count * times, MAX_STACKS + 1)
