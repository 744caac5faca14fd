"""The most prompt tokens that slots can have cached, if the future is known: a bound for policies.

Requests are served one after the other, each in some slot, which then holds its prompt instead of
its earlier one. The prefix that a prompt shares with the one in its slot is cached. For
pages of equal size, Belady's rule is the best choice; prompts share prefixes of any length, so the
best choice here is a flow of maximum gain: each unit of it is a slot that goes from request to
request. Between two requests, a slot waits at one of the prefixes of its prompt, for the next
request that begins with that prefix.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Sequence

Prompt = tuple[Sequence[bytes], Sequence[int]]  # links, and the tokens up to each of them
ROOT = b""  # the prefix of all prompts, without a token


def unlimited(prompts: Sequence[Prompt]) -> int:
    """The tokens found cached if nothing is ever dropped."""
    known: set[bytes] = set()
    cached = 0
    for links, ends in prompts:
        shared = sum(1 for _ in itertools.takewhile(known.__contains__, links))
        cached += min(ends[shared - 1], ends[-1] - 1) if shared else 0
        known.update(links)
    return cached


def bounds(prompts: Sequence[Prompt], slots: int) -> list[int]:
    """The most tokens found cached with 1, 2, … `slots` slots; shorter if more slots gain nothing.

    The time is the number of slots times that of the prefixes."""
    flow = _Flow()
    paths = _paths(prompts)
    waiting = {ROOT: flow.node()}  # the node of slots that wait at a prefix
    begin = waiting[ROOT]
    # Worth more than all tokens together, so that every request is served.
    must = 1 + sum(ends[-1] for _, ends in prompts)
    for path in paths:
        served, after = flow.node(), flow.node()
        flow.edge(served, after, 1, must)
        for link, tokens in path:
            here, there = waiting.get(link), flow.node()
            if here is not None:
                flow.edge(here, served, 1, tokens)
                flow.edge(here, there, slots, 0)
            flow.edge(after, there, 1, 0)
            waiting[link] = there
    gains = flow.gains(begin, waiting[ROOT], slots)
    gains[0] -= must * len(prompts)
    return list(itertools.accumulate(gains))


def _paths(prompts: Sequence[Prompt]) -> list[list[tuple[bytes, int]]]:
    """The prefixes of each prompt at which a slot may wait, and the tokens each saves. Of prefixes
    that the same prompts have, only the longest counts, and none that a single prompt has."""
    users = Counter(link for links, _ in prompts for link in links)
    paths = []
    for links, ends in prompts:
        path = [(ROOT, 0)]
        for number, (link, end) in enumerate(zip(links, ends, strict=True)):
            following = users[links[number + 1]] if number + 1 < len(links) else 0
            if users[link] > 1 and users[link] != following:
                path.append((link, min(end, ends[-1] - 1)))
        paths.append(path)
    return paths


class _Flow:
    """A flow of maximum gain, from nodes to nodes added later."""

    def __init__(self) -> None:
        self._edges: list[list[int]] = []  # by node: its edges; edge ^ 1 is the way back
        self._to: list[int] = []
        self._room: list[int] = []
        self._cost: list[int] = []

    def node(self) -> int:
        self._edges.append([])
        return len(self._edges) - 1

    def edge(self, start: int, end: int, room: int, gain: int) -> None:
        for node, other, some, cost in ((start, end, room, -gain), (end, start, 0, gain)):
            self._edges[node].append(len(self._to))
            self._to.append(other)
            self._room.append(some)
            self._cost.append(cost)

    def gains(self, begin: int, end: int, units: int) -> list[int]:
        """The gain of each unit of flow: successive shortest paths, the lengths of the previous
        ones as potentials. Ends before the first unit that gains nothing."""
        height = self._first_heights()
        gains: list[int] = []
        for _ in range(units):
            came, length = self._shortest(begin, end, height)
            gain = height[begin] - height[end] - length[end]
            if gains and not gain:
                break
            gains.append(gain)
            for node, far in length.items():
                height[node] += far - length[end]
            node = end
            while node != begin:
                edge = came[node]
                self._room[edge] -= 1
                self._room[edge ^ 1] += 1
                node = self._to[edge ^ 1]
        return gains

    def _first_heights(self) -> list[int]:
        """The cost of the cheapest way to each node, while all edges lead to later nodes."""
        far = [0] * len(self._edges)
        for node, edges in enumerate(self._edges):
            ways = [far[self._to[edge]] + self._cost[edge ^ 1] for edge in edges if edge & 1]
            far[node] = min(ways, default=0)
        return far

    def _shortest(
        self, begin: int, end: int, height: list[int]
    ) -> tuple[dict[int, int], dict[int, int]]:
        """The edges by which the shortest ways come to each node, and the ways' lengths, of the
        nodes that are not farther than `end`."""
        came: dict[int, int] = {}
        near = {begin: 0}
        settled: dict[int, int] = {}
        heap = [(0, begin)]
        while end not in settled:
            far, node = heapq.heappop(heap)
            if node in settled:
                continue
            settled[node] = far
            base = far + height[node]
            for edge in self._edges[node]:
                if self._room[edge]:
                    other = self._to[edge]
                    length = base + self._cost[edge] - height[other]
                    if length < near.get(other, math.inf):
                        near[other] = length
                        came[other] = edge
                        heapq.heappush(heap, (length, other))
        return came, settled
