"""Numbers of slots that are learned from the traffic of a server that does not report them, and how
soon one more is tried, whatever the server does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.scheduling.lease import Lease, Outcome, Ticket
from proxy.scheduling.outcomes import PATIENCE, try_later
from proxy.scheduling.state import SOONEST, BackendFacts, BackendRecord

from .fakes import World, slot_request

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


def test_too_many_requests_take_slots_away_and_the_server_is_left_alone() -> None:
    world = _world()
    leases = [world.take(f"prompt {number}") for number in range(3)]
    refused = world.take("refused")
    refused.release(Outcome(end="busy", pause=7.0))
    assert _slots(world) == 3
    backend = world.scheduler.backends["b0"]
    assert backend.ready == world.clock.now + 7.0
    del leases


def test_a_long_pause_is_bounded() -> None:
    world = _world()
    world.take("a").release(Outcome(end="busy", pause=86400.0))
    assert world.scheduler.backends["b0"].ready <= world.clock.now + 60


def test_the_pause_after_failures_is_bounded_however_many_there_are() -> None:
    world = _world()
    backend = world.scheduler.backends["b0"]
    for _ in range(1100):
        world.clock.now = max(world.clock.now, backend.ready)
        world.take("a").release(Outcome(end="failed"))
    assert world.clock.now + 10 <= backend.ready <= world.clock.now + 60


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


MOST = 12


class Server:
    """A server with `capacity` slots under steady demand. It begins an answer at once, and refuses
    what it has no slot for, or reports that it waits."""

    def __init__(self, capacity: int, first: int, *, refuses: bool, most: int = MOST) -> None:
        self.world = World(backends=0)
        facts = BackendFacts(model="m", slots=first, most=most, pins=False, cache_kind="ram")
        self.world.scheduler.update("b0", facts, up=True)
        self.capacity, self._refuses = capacity, refuses
        self._tickets: list[Ticket] = []
        self._leases: list[tuple[float, Lease]] = []  # with the ends of their answers
        self._waiting: list[Lease] = []
        self._count = 0
        # Alone, an answer begins at once.
        lease = self.world.take("alone")
        self.world.clock.now += 0.1
        lease.on_first_token(-1)
        lease.release(Outcome(end="whole", prompt=3, completion=101))

    @property
    def record(self) -> BackendRecord:
        return self.world.scheduler.backends["b0"]

    @property
    def slots(self) -> int:
        return len(self.record.slots)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> float:
        """Serve for so long, or until this is so. Returns the seconds that it took."""
        clock, scheduler = self.world.clock, self.world.scheduler
        begun = clock.now
        while clock.now < begun + seconds and not until():
            clock.now += 0.25
            for end, lease in [one for one in self._leases if one[0] <= clock.now]:
                self._leases.remove((end, lease))
                lease.release(Outcome(end="whole", prompt=3, completion=101))
                if self._waiting:
                    self._begin(self._waiting.pop(0))
            while len(self._tickets) < 3:
                self._count += 1
                entry = scheduler.enter(slot_request(f"question {self._count}"))
                if isinstance(entry, Ticket):
                    self._tickets.append(entry)
                else:
                    self._begin(entry)
            scheduler.mark("b0", up=True)
            for ticket in [one for one in self._tickets if one.lease is not None]:
                self._tickets.remove(ticket)
                assert ticket.lease is not None
                self._begin(ticket.lease)
        return clock.now - begun

    def _begin(self, lease: Lease) -> None:
        if len(self._leases) < self.capacity:
            lease.on_first_token(-1)
            self._leases.append((self.world.clock.now + ANSWER, lease))
        elif self._refuses:
            lease.release(Outcome(end="busy"))
        else:
            self._waiting.append(lease)


@pytest.mark.parametrize("refuses", [True, False], ids=["refuses", "queues"])
@given(capacity=st.integers(1, MOST), first=st.integers(1, MOST))
@settings(max_examples=8, deadline=None)
def test_tries_beyond_what_a_server_has_come_ever_more_rarely(
    refuses: bool, capacity: int, first: int
) -> None:
    server = Server(capacity, first, refuses=refuses)
    server.run(3000, until=lambda: server.record.patience == PATIENCE)
    if capacity < MOST:
        assert server.record.patience == PATIENCE
    server.run(60)
    assert server.slots in (capacity, min(capacity + 1, MOST))


@pytest.mark.parametrize("refuses", [True, False], ids=["refuses", "queues"])
def test_after_a_wrong_look_the_number_grows_back_soon(refuses: bool) -> None:
    server = Server(8, 8, refuses=refuses, most=8)
    server.run(60, until=lambda: server.record.in_flight == server.slots)
    for _ in range(3):
        try_later(server.record, server.world.clock.now)
    server.record.target = 1
    server.run(60, until=lambda: not server.record.target)
    assert server.slots == 1
    pause = server.record.patience
    seconds = server.run(3600, until=lambda: server.slots == 8)
    assert server.slots == 8
    assert seconds < 2 * pause + 7 * (SOONEST + ANSWER)  # each try comes in half of the pause
