"""Tries of one more slot: how soon they come again, whatever the server does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.scheduling.lease import Lease, Outcome, Ticket
from proxy.scheduling.outcomes import PATIENCE, try_later
from proxy.scheduling.state import SOONEST, BackendFacts, BackendRecord

from .fakes import World, check_slots, want

ANSWER = 5.0  # seconds of an answer
MOST = 12


class Server:
    """A server with `capacity` slots under steady demand. It begins an answer at once, and refuses
    what it has no slot for, or lets it wait."""

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
        return self.world.scheduler.backends["b0"][1]

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
                entry = scheduler.enter(want(f"question {self._count}"))
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


def test_a_server_that_got_more_room_is_used_after_long_pauses() -> None:
    server = Server(2, 2, refuses=True)
    server.run(3600, until=lambda: server.record.patience == PATIENCE)
    server.capacity = MOST
    seconds = server.run(36000, until=lambda: server.slots == MOST)
    assert seconds < 2 * PATIENCE + 10 * (SOONEST + ANSWER)


class Tries(RuleBasedStateMachine):
    """Any order of requests, refusals, reports and restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(backends=0)
        self.leases: list[Lease] = []
        self.tickets: list[Ticket] = []
        self.count = 0
        self.restarted(3, MOST)

    @property
    def backend(self) -> BackendRecord:
        return self.world.scheduler.backends["b0"][1]

    @rule(slots=st.integers(0, 4), most=st.sampled_from([0, 4, MOST]))
    def restarted(self, slots: int, most: int) -> None:
        facts = BackendFacts(model="m", slots=slots, most=most, pins=False, cache_kind="ram")
        self.world.scheduler.update("b0", facts, up=True)

    @rule()
    def asked(self) -> None:
        self.count += 1
        scheduler = self.world.scheduler
        entry = scheduler.enter(want(f"question {self.count}"))
        if isinstance(entry, Ticket):
            self.tickets.append(entry)
        else:
            self.leases.append(entry)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), end=st.sampled_from(["whole", "cut", "busy", "failed", "unused"]))
    def ended(self, data: st.DataObject, end: str) -> None:
        lease = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        lease.release(Outcome(end=end, prompt=3, completion=9))  # type: ignore[arg-type]

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def began(self, data: st.DataObject) -> None:
        self.leases[data.draw(st.integers(0, len(self.leases) - 1))].on_first_token(-1)

    @rule(seconds=st.sampled_from([0.1, 1.0, SOONEST, 2 * PATIENCE]))
    def waited(self, seconds: float) -> None:
        self.world.clock.now += seconds
        self.world.scheduler.serve()

    @invariant()
    def the_records_are_whole(self) -> None:
        for ticket in [one for one in self.tickets if one.lease is not None]:
            self.tickets.remove(ticket)
            assert ticket.lease is not None
            self.leases.append(ticket.lease)
        backend = self.backend
        check_slots(self.world.scheduler, self.leases)
        assert backend.slots
        assert not backend.target or backend.target < len(backend.slots)

    @invariant()
    def pauses_are_bounded(self) -> None:
        backend, now = self.backend, self.world.clock.now
        assert SOONEST <= backend.patience <= PATIENCE
        assert backend.more <= now + backend.patience


Tries.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
