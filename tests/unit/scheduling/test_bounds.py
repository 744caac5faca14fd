"""Bounds on what the scheduler remembers, each at its edge."""

from __future__ import annotations

import pytest

from proxy.scheduling import knowledge, parties, prefix
from proxy.scheduling.prefix import BLOCK, LONG, MOST, Chains
from tests.unit.scheduling.fakes import World


def pool(world: World) -> knowledge.Pool:
    found: knowledge.Pool = world.scheduler.records[0]["m"]
    return found


def test_conversations_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowledge, "REMEMBERED", 20)
    world = World(slots=2)
    for number in range(30):
        world.turn(f"conversation {number} " * 9, session=f"s{number}")
        assert len(pool(world).conversations) <= 20
    assert len(pool(world).conversations) == 20


def test_prompts_kept_beside_the_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowledge, "KEPT", 5)
    world = World(slots=2)
    world.scheduler.update("b0", "m", up=True, slots=2, pins=False, keeps="ram")
    counts = []
    for number in range(12):
        world.turn(f"conversation {number} " * 90)
        counts.append(world.scheduler.view("", "").backends[0].kept)
    assert max(counts) == counts[-1] == 5


def test_links_of_a_prompt() -> None:
    for blocks, links in ((MOST - 1, MOST - 1), (MOST, MOST), (4 * MOST, MOST)):
        text = "x" * (BLOCK * blocks)
        chain = Chains().chain(text, tuple(range(BLOCK, len(text) + 1, BLOCK)))
        assert len(chain.links) == links


def test_long_texts_whose_digest_is_kept() -> None:
    chains = Chains()
    for number in range(prefix.REMEMBERED + 9):
        text = f"{number:05}" * LONG
        chains.chain(text, (len(text),))
        assert len(chains._kept) == min(number + 1, prefix.REMEMBERED)


def test_keys_that_were_here_lately() -> None:
    seen = parties.Parties()
    for number in range(parties.REMEMBERED + 9):
        seen.came((f"key {number}", True), float(number))
        assert len(seen.seen) == min(number + 1, parties.REMEMBERED)
