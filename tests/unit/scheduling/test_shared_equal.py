"""Several gateways on one log place requests exactly as one gateway would: the same slots at the
same times, so the same prompt work and the same fairness between keys."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from typing import NamedTuple

from proxy.scheduling.lease import Lease, Outcome
from proxy.scheduling.prefix import chain_of
from proxy.scheduling.shared import ops
from proxy.scheduling.shared.ops import Op
from proxy.scheduling.shared.replica import Replica, SharedRules
from proxy.scheduling.state import BackendFacts, SlotRequest

BACKENDS, SLOTS = 4, 2
CONVERSATIONS, TURNS, REQUESTS = 24, 16, 150
SECONDS = 60
READS, WRITES = 400.0, 0.4  # tokens of a prompt a second, seconds of an answer


class Placed(NamedTuple):
    """Where and when a request got its slot, and how many tokens it has and found there."""

    at: float
    backend: str
    slot: int
    tokens: int
    cached: int
    key: str


def _want(draw: random.Random, turns: Counter[int]) -> SlotRequest:
    one = draw.randrange(CONVERSATIONS)
    turns[one] = turns[one] % TURNS + 1
    text = "The rules of the house. " * 40 * (one % 2)
    text += "".join(f"turn {turn} of {one}, and so on. " * 8 for turn in range(turns[one]))
    key = "few" if one % 4 == 0 else "many"
    chain = chain_of(text, (len(text),))
    return SlotRequest(model="m", max_tokens=16, chain=chain, key=key)


def _served(members: str) -> dict[int, Placed]:
    """Requests by number, which members of the log serve in turn, in virtual time."""
    replica = Replica(SharedRules("1", max_queue=512))
    facts = BackendFacts(model="m", slots=SLOTS, pins=True, cache_kind="nothing")
    for member in members:
        found: list[Op] = [ops.BackendFound(f"b{n}", True, facts) for n in range(BACKENDS)]
        replica.apply(0.0, member, found)
    draw, turns = random.Random(4), Counter[int]()
    wants: dict[int, SlotRequest] = {}
    placed: dict[int, Placed] = {}
    todo: list[tuple[float, int, str, Op | None]] = []
    order = itertools.count()
    arrives = 0.0
    for number in range(1, REQUESTS + 1):
        wants[number] = _want(draw, turns)
        arrives += draw.expovariate(14)
        member = members[number % len(members)]
        enqueue = ops.enqueue(number, wants[number], False)
        heapq.heappush(todo, (arrives, next(order), member, enqueue))
    for beat in range(2 * SECONDS):
        for member in members:
            heapq.heappush(todo, (beat / 2, next(order), member, None))
    while todo:
        now, _, member, op = heapq.heappop(todo)
        written = [ops.Heartbeat() if op is None else op]
        for result in replica.apply(now, member, ops.decode(ops.encode(written))):
            if not isinstance(result.news, Lease):
                continue
            number, lease = result.id, result.news
            tokens, cached = wants[number].chain.size // 4, lease.grant.cached
            slot = lease.slot.id
            key = wants[number].key
            placed[number] = Placed(now, lease.backend, slot, tokens, cached, key)
            read = max(0, tokens - cached) / READS
            outcome = Outcome(end="whole", slot=slot, prompt=tokens, cached=cached, completion=16,
                              evaluating=read)  # fmt: skip
            for after, step in (
                (read, ops.FirstToken(number, slot)),
                (read + WRITES, ops.LastToken(number)),
                (read + WRITES, ops.Release(number, outcome)),
            ):
                heapq.heappush(todo, (now + after, next(order), result.member, step))
    return placed


def test_several_gateways_place_requests_as_one() -> None:
    one = _served("A")
    assert len(one) == REQUESTS and len({(p.backend, p.slot) for p in one.values()}) == 8
    cached = sum(p.cached for p in one.values()) / sum(p.tokens for p in one.values())
    assert 0.2 < cached < 1  # it matters which slot a request gets
    assert max(p.at for p in one.values()) > 15  # there is a queue, so it matters whose turn it is
    assert _served("AB") == one
    assert _served("ABC") == one
