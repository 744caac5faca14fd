"""Routes: which tiers a request may use, with a manual clock."""

from __future__ import annotations

import pytest

from proxy.core.task import Tier
from proxy.errors import NoIdleSlot
from proxy.scheduling.lease import Lease, Outcome, Ticket
from proxy.scheduling.scheduler import LocalScheduler
from proxy.scheduling.shared import ops
from proxy.scheduling.shared.replica import Replica, SharedRules
from proxy.scheduling.shared.snapshot import dump, load
from proxy.scheduling.state import BackendFacts
from proxy.scheduling.tiers import MOST_PASSED
from tests.unit.scheduling.fakes import Clock, slot_request

OWN, CLOUD = "own", "cloud"


class Route:
    """A route with backends `own-0` … in the first tier and `cloud` in the second."""

    def __init__(
        self, overflow_after: float = 10.0, own: int = 1, slots: int = 1, clouds: int = 8
    ) -> None:
        self.clock = Clock()
        self.scheduler = LocalScheduler(self.clock, wait_for_backend=60.0)
        for number in range(own):
            self.add(f"own-{number}", Tier(0, OWN, overflow_after), slots)
        self.add(CLOUD, Tier(1, CLOUD, overflow_after), clouds)

    def add(self, name: str, tier: Tier, slots: int = 1) -> None:
        facts = BackendFacts(model="m", slots=slots, tier=tier, cache_kind="ram", pins=False)
        self.scheduler.update(name, facts, up=True)

    def enter(self, prompt: str = "hello", **fields: object) -> Lease | Ticket:
        return self.scheduler.enter(slot_request(prompt, **fields))  # type: ignore[arg-type]

    def waits(self, prompt: str = "hello", **fields: object) -> Ticket:
        ticket = self.enter(prompt, **fields)
        assert isinstance(ticket, Ticket) and ticket.lease is None
        return ticket

    def take(self, prompt: str = "hello", **fields: object) -> Lease:
        lease = self.enter(prompt, **fields)
        assert isinstance(lease, Lease)
        return lease

    def look(self, ticket: Ticket) -> Lease | None:
        """The lease of a ticket whose time may have come."""
        if ticket.until <= self.clock.now:
            self.scheduler.look(ticket, self.clock.now)
        return ticket.lease


def test_first_tier_is_used_while_it_has_a_free_slot() -> None:
    route = Route(own=2)
    leases = [route.take(f"question {n}") for n in range(2)]
    assert {lease.backend for lease in leases} == {"own-0", "own-1"}
    assert [lease.grant.passed for lease in leases] == [(), ()]


def test_free_slots_of_a_later_tier_do_not_hide_the_one_that_is_left() -> None:
    route = Route(own=1, slots=1, clouds=500)
    for turn in range(3):
        lease = route.take(f"question {turn}")
        assert lease.backend == "own-0"
        lease.release(Outcome(end="whole"))


def test_next_tier_is_used_when_the_first_is_down() -> None:
    route = Route()
    route.scheduler.mark("own-0", up=False)
    lease = route.take()
    assert lease.backend == CLOUD
    assert lease.grant.passed == (("own-0", "down"),)
    view = next(one for one in route.scheduler.view("", "").backends if one.backend == CLOUD)
    assert (view.tier, view.instead) == (CLOUD, {"down": 1})


def test_backend_not_probed_yet_is_waited_for() -> None:
    route = Route()
    tier = Tier(0, OWN, 10.0)
    route.scheduler.update("own-0", BackendFacts(model="m", slots=1, tier=tier), up=None)
    ticket = route.waits()
    route.scheduler.mark("own-0", up=False)
    assert ticket.lease is not None
    assert ticket.lease.backend == CLOUD


def test_next_tier_is_used_when_the_first_is_paused_after_failures() -> None:
    route = Route()
    for _ in range(3):
        route.take().release(Outcome(end="failed"))
    lease = route.take()
    assert lease.grant.passed == (("own-0", "paused"),)
    circuit = {one.backend: one.circuit for one in route.scheduler.view("", "").backends}
    assert circuit == {"own-0": "open", CLOUD: "closed"}
    route.clock.now += 5
    trial = route.take("on trial")
    assert trial.backend == "own-0"
    assert route.take("meanwhile").backend == CLOUD
    trial.release(Outcome(end="whole"))
    assert route.take("after it").backend == "own-0"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"exclude": frozenset({"own-0"})}, "failed"),
        ({"barred": frozenset({OWN})}, "barred"),
        ({}, "busy"),  # the expected wait is too long
    ],
)
def test_next_tier_is_used_at_once_by_a_request_that_the_first_does_not_serve(
    fields: dict[str, object], why: str
) -> None:
    route = Route(overflow_after=0.1)
    if not fields:
        route.take()
    lease = route.take("another", **fields)
    assert (lease.backend, lease.grant.passed) == (CLOUD, (("own-0", why),))


def test_request_waits_while_the_expected_wait_is_short_enough() -> None:
    route = Route(overflow_after=10.0)
    busy = route.take()
    ticket = route.waits("another")
    busy.release(Outcome(end="whole"))
    assert ticket.lease is not None
    assert ticket.lease.backend == "own-0"


def test_requests_far_back_in_the_queue_overflow_before_those_ahead() -> None:
    route = Route(overflow_after=2.5)
    route.take()
    entered = [route.enter(f"question {n}", key=f"key {n}") for n in range(6)]
    overflowed = [isinstance(one, Lease) or one.lease is not None for one in entered]
    assert overflowed == sorted(overflowed)
    assert 1 <= sum(overflowed) < 6


def test_request_overflows_when_it_has_waited_long_enough() -> None:
    route = Route(overflow_after=10.0)
    route.take()
    ticket = route.waits("another")
    assert ticket.until <= route.clock.now + 10
    route.clock.now = ticket.began + 5.0
    assert route.look(ticket) is None
    route.clock.now = ticket.began + 10.1
    lease = route.look(ticket)
    assert lease is not None
    assert lease.backend == CLOUD


def test_requests_in_idle_slots_overflow_only_from_a_tier_that_is_down() -> None:
    route = Route(overflow_after=0.0)
    busy = route.take()
    with pytest.raises(NoIdleSlot):
        route.enter("a line of a batch", idle=True)
    busy.release(Outcome(end="whole"))
    assert route.take("a line of a batch", idle=True).backend == "own-0"
    route.scheduler.mark("own-0", up=False)
    assert route.take("another line", idle=True).backend == CLOUD


def test_barred_key_never_gets_the_tier() -> None:
    route = Route(overflow_after=0.0)
    route.take()
    ticket = route.waits("another", barred=frozenset({CLOUD}))
    route.clock.now += 100
    assert route.look(ticket) is None
    route.scheduler.mark("own-0", up=False)
    assert route.look(ticket) is None


def test_number_of_backends_named_as_passed_over_is_bounded() -> None:
    route = Route(own=MOST_PASSED + 5)
    for number in range(MOST_PASSED + 5):
        route.scheduler.mark(f"own-{number}", up=False)
    assert len(route.take().grant.passed) == MOST_PASSED


def test_routes_are_part_of_a_shared_table() -> None:
    replica = Replica(SharedRules("1"))
    facts = {
        "own": BackendFacts(model="m", slots=1, tier=Tier(0, OWN, 0.1)),
        "cloud": BackendFacts(model="m", slots=1, tier=Tier(1, CLOUD, 0.1)),
    }
    found = [ops.BackendFound(name, True, one) for name, one in facts.items()]
    replica.apply(1.0, "w", ops.decode(ops.encode(found)))
    for number, barred in ((1, ()), (2, ()), (3, (CLOUD,))):
        request = slot_request(f"question {number}", barred=frozenset(barred))
        replica.apply(1.0, "w", ops.decode(ops.encode([ops.enqueue(number, request, False)])))
    copy = load(dump(replica), SharedRules("1"))
    for one in (replica, copy):
        leases = one.members["w"].leases
        assert {n: lease.backend for n, lease in leases.items()} == {1: "own", 2: "cloud"}
        assert leases[2].grant.passed == (("own", "busy"),)
        (waiting,) = one.members["w"].tickets.values()
        assert waiting.request.barred == {CLOUD}
    assert dump(copy) == dump(replica)
