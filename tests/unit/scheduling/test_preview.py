"""What would become of a request: the same as becomes of it, and nothing is changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import NoBackend
from proxy.scheduling.lease import Lease
from proxy.scheduling.placement import Preview
from tests.unit.observe.test_cold import talk
from tests.unit.scheduling.fakes import World, ended, slot_request


def preview(world: World, name: str, turns: int, **fields: Any) -> Preview:
    return world.scheduler.preview(slot_request(*talk(name, turns), **fields))


def test_slot_with_the_conversation_is_chosen_at_once() -> None:
    world = World(slots=3)
    lease = world.turn(*talk("a", 3))
    seen = preview(world, "a", 4)
    assert (seen.place, seen.wait) == (0, 0.0)
    first, *others = seen.places
    assert (first.slot, first.busy) == (lease.slot.id, False) and first.cached_tokens > 0
    assert {place.slot for place in others} == {0, 1, 2} - {first.slot}
    assert all(
        place.cached_tokens == 0 and place.cost_seconds > first.cost_seconds for place in others
    )


def test_conversation_in_use_is_waited_for() -> None:
    world = World(slots=2)
    lease = world.take(*talk("a", 8))
    world.scheduler.on_first_token(lease, lease.slot.id)
    seen = preview(world, "a", 9)
    busy = seen.places[0]
    assert busy.busy and busy.wait_seconds > 0 and busy.cached_tokens > 0
    if seen.placement is None:
        assert seen.place == 1 and seen.wait == pytest.approx(busy.wait_seconds)


def test_request_without_a_free_slot_would_be_queued() -> None:
    world = World(slots=1)
    world.take(*talk("a", 1))
    world.waits(*talk("b", 1))
    seen = preview(world, "c", 1)
    assert seen.placement is None and seen.place == 2 and seen.wait > 0


def test_no_backend_is_an_error_as_for_the_request() -> None:
    world = World()
    world.scheduler.mark("b0", False)
    with pytest.raises(NoBackend):
        preview(world, "a", 1)


STEPS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 5)), min_size=1, max_size=25)


@given(steps=STEPS, slots=st.integers(1, 3), backends=st.integers(1, 2))
def test_preview_agrees_with_the_decision(
    steps: Sequence[tuple[str, int]], slots: int, backends: int
) -> None:
    world = World(slots=slots, backends=backends)
    turns: dict[str, int] = {}
    held: list[Lease] = []
    for name, dice in steps:
        world.clock.now += 1
        turns[name] = turns.get(name, 0) + 1
        request = slot_request(*talk(name, turns[name]))
        pools = world.scheduler.pools
        before = repr(pools["m"].losses), len(pools["m"].conversations), len(pools["m"].index)
        seen = world.scheduler.preview(request)
        pool = pools["m"]
        assert (repr(pool.losses), len(pool.conversations), len(pool.index)) == before
        entry = world.scheduler.enter(request)
        if isinstance(entry, Lease):
            assert seen.placement is not None and entry.placement is not None
            wanted = msgspec.structs.replace(entry.placement, request=seen.placement.request)
            assert seen.placement == wanted
            chosen, *others = seen.places
            assert (chosen.backend, chosen.slot) == (entry.backend, entry.slot.id)
            assert chosen.cached_tokens == entry.grant.cached
            if entry.grant.cost:
                assert all(chosen.cost_seconds <= other.cost_seconds for other in others)
            held.append(entry)
        else:
            assert seen.placement is None and seen.place == entry.place
            entry.leave()
        if dice and held:
            lease = held.pop(dice % len(held))
            lease.release(ended(lease.slot.id, lease.grant.prompt, lease.grant.cached))
