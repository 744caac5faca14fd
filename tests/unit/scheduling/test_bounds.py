"""Each bound on what the scheduler remembers, at its limit."""

from __future__ import annotations

import tracemalloc

import pytest

from proxy.scheduling import pool as pool_module
from proxy.scheduling import scheduler as scheduler_module
from proxy.scheduling.pool import Pool
from proxy.scheduling.prefix import BLOCK, MOST, Chain, chain_of
from proxy.scheduling.state import BackendFacts, SlotRequest
from tests.unit.scheduling.fakes import World


def pool(world: World) -> Pool:
    found: Pool = world.scheduler.pools["m"]
    return found


def test_remembered_conversations_per_model_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "REMEMBERED", 20)
    world = World(slots=2)
    for number in range(30):
        world.turn(f"conversation {number} " * 9, session=f"s{number}")
        assert len(pool(world).conversations) <= 20
    assert len(pool(world).conversations) == 20


def test_a_remembered_turn_takes_little_memory() -> None:
    """A worker remembers thousands of them: most of what grows with requests."""
    table = Pool()
    chains = [Chain((number.to_bytes(12, "big"),), (100,), 1) for number in range(2000)]
    tracemalloc.start()
    for number, chain in enumerate(chains):
        request = SlotRequest(model="m", chain=chain, group="all")
        table.record_turn(request, table.conversation(request), 1e6 + number)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table.conversations) == 2000
    assert taken / 2000 < 200


def test_prompts_kept_outside_slots_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "KEPT", 5)
    world = World(slots=2)
    world.scheduler.update(
        "b0", BackendFacts(model="m", slots=2, pins=False, cache_kind="ram"), up=True
    )
    counts = []
    for number in range(12):
        world.turn(f"conversation {number} " * 90)
        counts.append(world.scheduler.view("", "").backends[0].kept)
    assert max(counts) == counts[-1] == 5


def test_links_per_prompt_are_bounded() -> None:
    for blocks, links in ((MOST - 1, MOST - 1), (MOST, MOST), (4 * MOST, MOST)):
        text = "x" * (BLOCK * blocks)
        chain = chain_of(text, tuple(range(BLOCK, len(text) + 1, BLOCK)))
        assert len(chain.links) == links


def test_models_without_a_backend_are_bounded() -> None:
    world = World(slots=2)
    scheduler = world.scheduler
    for number in range(scheduler_module.MOST_EMPTY + 9):
        facts = BackendFacts(model=f"renamed {number}", slots=2)
        scheduler.update(f"r{number}", facts, up=True)
        scheduler.drain(f"r{number}")
    pools = scheduler.pools
    assert len(pools) <= scheduler_module.MOST_EMPTY + 2
    assert "m" in pools, "it has a backend"
    world.turn("a conversation that goes on")
