"""Numbers of slots that are learned from the traffic of a server that does not report them."""

from __future__ import annotations

from proxy.scheduling.lease import Lease, Outcome, Ticket
from proxy.scheduling.state import BackendFacts

from .fakes import World, want

FACTS = BackendFacts(model="m", slots=4, most=6, pins=False, cache_kind="ram")
ANSWER = 5.0  # seconds of an answer here


def _world() -> World:
    world = World(backends=0)
    world.scheduler.update("b0", FACTS, up=True)
    return world


def _slots(world: World) -> int:
    return world.scheduler.slots("b0")


def _turn(world: World, lease: Lease) -> None:
    world.clock.now += ANSWER
    lease.release(Outcome(end="whole", prompt=3, completion=101))


def _begin(world: World, name: str, seconds: float) -> Lease:
    """A request whose answer begins after so many seconds."""
    lease = world.take(f"prompt of {name}")
    world.clock.now += seconds
    lease.on_first_token(-1)
    return lease


def _quick(world: World) -> None:
    """Answers that begin at once, while nothing else runs: 20 tokens a second."""
    for number in range(40):
        _turn(world, _begin(world, f"quick {number}", 0.1))


def test_answers_that_begin_when_others_end_take_a_slot_away() -> None:
    world = _world()
    _quick(world)
    leases = [_begin(world, f"one {number}", 0.1) for number in range(3)]
    leases.append(_begin(world, "late", ANSWER))
    assert _slots(world) == 4  # one may be a coincidence
    _turn(world, leases.pop())
    leases.append(_begin(world, "late again", ANSWER))
    for lease in leases:
        _turn(world, lease)
    assert _slots(world) == 4 - 1


def test_answers_that_begin_soon_keep_all_slots() -> None:
    world = _world()
    _quick(world)
    leases = [_begin(world, f"one {number}", 0.2) for number in range(4)]
    for number in range(20):
        _turn(world, leases.pop(0))
        leases.append(_begin(world, f"more {number}", 0.3))
    assert _slots(world) == 4


def test_more_slots_are_tried_up_to_the_bound_while_requests_wait() -> None:
    world = _world()
    for number in range(4):
        world.take(f"prompt {number}")
    tickets = [world.scheduler.enter(want(f"waits {n}")) for n in range(4)]
    for _ in range(40):
        world.clock.now += 5
        world.scheduler.mark("b0", up=True)
    assert _slots(world) == FACTS.most
    assert len([one for one in tickets if isinstance(one, Ticket) and one.lease is None]) == 2


def test_too_many_requests_take_slots_away_and_the_server_is_left_alone() -> None:
    world = _world()
    leases = [world.take(f"prompt {number}") for number in range(3)]
    refused = world.take("refused")
    refused.release(Outcome(end="busy", pause=7.0))
    assert _slots(world) == 3
    backend = world.scheduler.backends["b0"][1]
    assert backend.ready == world.clock.now + 7.0
    del leases


def test_a_long_pause_is_bounded() -> None:
    world = _world()
    world.take("a").release(Outcome(end="busy", pause=86400.0))
    assert world.scheduler.backends["b0"][1].ready <= world.clock.now + 60


def test_what_was_learned_outlives_a_restart_of_the_server() -> None:
    world = _world()
    leases = [world.take(f"prompt {number}") for number in range(3)]
    leases.pop().release(Outcome(end="busy"))
    world.scheduler.update("b0", FACTS, up=True)
    assert _slots(world) == 2


def test_a_probe_replaces_the_guess_of_a_server_that_was_unknown() -> None:
    world = World(backends=0)
    world.scheduler.update("b0", BackendFacts(model="m", slots=0), up=None)
    world.scheduler.update("b0", BackendFacts(model="m", slots=64, most=1024), up=True)
    assert _slots(world) == 64
