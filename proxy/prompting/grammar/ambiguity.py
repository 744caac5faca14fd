"""How many parse stacks a text can cost a sampler that does not merge equal ones.

Strategy: where two derivations of a text meet again, the old sampler keeps both, and `("a" | "a")*`
costs it twice the work with every character, until it hangs or runs out of memory. Whether any text
does that cannot be decided, but a short search finds what people write: count the stacks, go on
where there are most, and nowhere twice unless with more of them than before.

Only what doubles with about every character is found and refused. Slower growth is let pass on
purpose: the JSON grammar that llama.cpp itself came with has two derivations for each number of one
digit, and people use it.
"""

from __future__ import annotations

from heapq import heappop, heappush

from .charset import contains
from .effort import spend
from .match import DONE, Program
from .values import Grammar

MAX_STACKS = 5_000
"""Stacks at once. Each is tried against the whole vocabulary at every token."""

LENGTH = 16
"""Characters of the texts looked at. Doubling takes 13 to show."""

WORK = 4_000
"""Stacks moved on in all: what a check may cost."""

_CANDIDATES = 16
"""Characters that are tried from each."""


def too_ambiguous(grammar: Grammar) -> str | None:
    """A text after which there are more than MAX_STACKS stacks; None when none was found."""
    walk = _Walk(Program(grammar))
    start = walk.start()
    # Most stacks first; a number that only grows keeps entries with equal totals apart.
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
        # Stacks with a character on top, and how many ways lead to each, by stack.
        self.tops: dict[int, dict[int, int]] = {DONE: {DONE: 1}}

    def start(self) -> dict[int, int]:
        states: dict[int, int] = {}
        for stack in self.program.starts:
            _add(states, self.counted(stack), 1)
        return states

    def candidates(self, states: dict[int, int]) -> list[int]:
        """Characters at which the choice differs: where some state's range begins."""
        begins: dict[int, int] = {}
        spend(len(states))
        for state, count in states.items():
            if state != DONE:
                for low, _ in self.program.charset(state)[:_CANDIDATES]:
                    begins[low] = begins.get(low, 0) + count
        return sorted(begins, key=lambda low: (-begins[low], low))[:_CANDIDATES]

    def step(self, states: dict[int, int], code: int) -> dict[int, int]:
        found: dict[int, int] = {}
        for state, count in states.items():
            if state != DONE and contains(self.program.charset(state), code):
                _add(found, self.counted(self.program.below(state)), count)
        return found

    def counted(self, stack: int) -> dict[int, int]:
        """What `Program.expand` gives, with the number of ways. Without recursion, deepest first;
        no stack leads to itself, as there is no left recursion."""
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
