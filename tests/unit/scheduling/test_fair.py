"""The fair queue, and the lines before pools."""

from __future__ import annotations

from typing import Literal

import pytest

from proxy.scheduling.fair import FairQueue, displaced
from proxy.scheduling.lease import Lease, Outcome, Ticket
from proxy.scheduling.policy import decide
from proxy.scheduling.pool import Pool
from proxy.scheduling.scheduler import LocalScheduler
from proxy.scheduling.state import (
    BackendFacts,
    ConversationRecord,
    Grant,
    SlotRequest,
    WaitForSlot,
)

from .fakes import Clock, ended, slot_request

OWNER = LocalScheduler(lambda: 0.0)


def made(name: str, began: float = 0.0, key: str = "", is_retry: bool = False) -> Ticket:
    return Ticket(OWNER, SlotRequest(model=name, key=key), ConversationRecord(), began, is_retry)


def _drain(queue: FairQueue) -> list[str]:
    names = []
    while len(queue):
        first = next(iter(queue))
        queue.served(first)
        names.append(first.request.model)
    return names


def test_single_request_of_a_key_passes_ten_requests_of_another() -> None:
    queue = FairQueue()
    for n in range(10):
        queue.push(made(f"greedy{n}", n), "greedy", 100)
    queue.push(made("modest", 11), "modest", 100)
    assert _drain(queue).index("modest") <= 1


def test_fair_share_is_measured_in_tokens_not_requests() -> None:
    queue = FairQueue()
    for n in range(4):
        queue.push(made(f"big{n}", n), "big", 1000)
        queue.push(made(f"small{n}", n), "small", 100)
    assert _drain(queue)[:5].count("big0") == 1


def test_larger_share_is_served_faster_without_starving_others() -> None:
    queue = FairQueue()
    for n in range(8):
        queue.push(made(f"low{n}", n), "a", 100)
        queue.push(made(f"high{n}", n), "b", 100 / 4)
    names = _drain(queue)
    assert [n[:3] for n in names[:6]].count("hig") == 5 or names[:6].count("low0") == 1
    assert "low1" in names[:8]


def test_returning_request_is_served_next() -> None:
    queue = FairQueue()
    for n in range(3):
        queue.push(made(f"t{n}", n), "k", 100)
    queue.push(made("again", -1), "k", 100, is_retry=True)
    assert _drain(queue)[0] == "again"


def _waiting(names: str) -> list[Ticket]:
    """One ticket per letter, of the key with that letter; a capital marks a returning request."""
    return [made(f"{n}", n, name.lower(), name.isupper()) for n, name in enumerate(names)]


@pytest.mark.parametrize(
    ("waiting", "key", "leaves"),
    [
        ("aaaa", "b", "3"),  # the newest of the key with most requests
        ("abab", "c", "3"),  # two keys with equally many: the newest of both
        ("aabaa", "b", "4"),
        ("aab", "b", None),  # displacing would only swap the two keys
        ("ab", "c", None),
        ("aaaa", "a", None),
        ("", "a", None),
        ("aaAA", "b", "1"),  # a returning request may have begun its answer
        ("AAA", "b", None),
    ],
)
def test_full_queue_displaces_newest_request_of_the_busiest_key(
    waiting: str, key: str, leaves: str | None
) -> None:
    ticket = displaced(_waiting(waiting), key)
    assert (ticket.request.model if ticket is not None else None) == leaves


SYSTEM = "You are a helpful assistant. " * 300


class Counting:
    """A scheduler that counts the decisions of its policy."""

    def __init__(self, slots: int, backends: int = 1) -> None:
        self.clock = Clock()
        self.decisions = 0
        self.scheduler = LocalScheduler(self.clock, max_queue=10**6, policy=self._decide)
        for number in range(backends):
            self.scheduler.update(f"b{number}", BackendFacts(model="m", slots=slots), up=True)

    def _decide(self, request: SlotRequest, pool: Pool, now: float) -> Grant | WaitForSlot | None:
        self.decisions += 1
        return decide(request, pool, now)

    def question(self, number: int) -> SlotRequest:
        text = f"{SYSTEM}question {number}"
        return slot_request(text, (len(SYSTEM), len(text)))

    def enter(self, number: int) -> Lease | Ticket:
        return self.scheduler.enter(self.question(number))

    def release(self, lease: Lease) -> None:
        self.clock.now += 0.05
        lease.release(ended(lease.slot.id, 2200, lease.grant.cached, evaluating=0.5))

    def fill(self, slots: int) -> list[Lease]:
        """Leases of all slots, which hold the system prompt; to wait for one looks expensive."""
        self.scheduler.pools["m"].mean_pace = 0.016
        leases = []
        for number in range(slots):
            entry = self.enter(10**6 + number)
            assert isinstance(entry, Lease)
            leases.append(entry)
        return leases


@pytest.mark.parametrize("waiting", [1, 32, 1000])
@pytest.mark.parametrize("slots", [8, 64])
def test_release_takes_one_decision_however_many_requests_wait(slots: int, waiting: int) -> None:
    counting = Counting(8, backends=slots // 8)
    leases = counting.fill(slots)
    tickets = [counting.enter(number) for number in range(waiting)]
    assert counting.scheduler.waiting == waiting
    counting.decisions = 0
    counting.release(leases[0])
    assert counting.decisions == 1
    served = [ticket for ticket in tickets if isinstance(ticket, Ticket) and ticket.lease]
    assert served == tickets[:1]


def test_parked_request_takes_any_slot_that_holds_its_prefix() -> None:
    counting = Counting(4)
    first, second = counting.fill(2)
    counting.scheduler.pools["m"].mean_pace = 320.0  # so waiting is cheaper than a cold start
    ticket = counting.enter(1)
    assert isinstance(ticket, Ticket) and ticket.parked_for is not None
    counting.release(second)
    assert ticket.lease is not None and ticket.lease.slot is second.slot
    counting.release(first)


def test_those_behind_the_first_that_waits_for_a_prefix_decide_again_in_a_second() -> None:
    counting = Counting(3)
    leases = counting.fill(2)
    for lease in leases:
        lease.on_first_token(-1)
    pool, began = counting.scheduler.pools["m"], counting.clock.now
    pool.mean_pace = 3200.0  # so waiting is cheaper than a cold start
    tickets = [entry for entry in map(counting.enter, range(20)) if isinstance(entry, Ticket)]
    assert len(tickets) == 20 and len({ticket.parked_for for ticket in tickets}) == 1
    counting.decisions = 0
    counting.clock.now = began + 0.99
    for ticket in reversed(tickets):
        counting.scheduler.look(ticket, counting.clock.now)
    assert counting.decisions == 1
    counting.clock.now = began + 1.0
    pool.mean_pace = 0.016  # the answers take longer than was expected
    counting.scheduler.look(tickets[-1], counting.clock.now)
    assert tickets[-1].lease is not None
    for lease in (*leases, tickets[-1].lease):
        counting.release(lease)


def test_next_request_gets_the_deadline_when_the_first_one_leaves() -> None:
    clock = Clock()
    scheduler = LocalScheduler(clock)
    scheduler.update("b0", BackendFacts(model="m", slots=1, release_delay=0.5), up=True)
    lease = scheduler.enter(slot_request("first"))
    first, second = (scheduler.enter(slot_request(text)) for text in ("second", "third"))
    assert isinstance(lease, Lease) and isinstance(first, Ticket) and isinstance(second, Ticket)
    lease.on_first_token(0)
    lease.release(ended(0, 10))
    ready = lease.slot.ready  # before that the server has not released the slot
    assert clock.now < first.until == ready
    first.leave()
    assert second.until == ready
    clock.now = ready
    scheduler.look(second, clock.now)
    assert second.lease is not None
    second.lease.release()


@pytest.mark.parametrize("end", ["unused", "cut"])
def test_slot_needs_a_moment_only_if_its_server_was_asked(end: Literal["unused", "cut"]) -> None:
    clock = Clock()
    scheduler = LocalScheduler(clock)
    scheduler.update("b0", BackendFacts(model="m", slots=1, release_delay=0.5), up=True)
    lease = scheduler.enter(slot_request("first"))
    assert isinstance(lease, Lease)
    lease.release(Outcome(end=end))
    assert isinstance(scheduler.enter(slot_request("second")), Ticket) == (end == "cut")


def test_few_requests_wait_for_a_prefix_and_the_others_take_free_slots() -> None:
    counting = Counting(64)
    counting.fill(1)
    entries = [counting.enter(number) for number in range(40)]
    started = [entry for entry in entries if isinstance(entry, Lease)]
    assert len(started) > 20
    for entry in started:
        counting.release(entry)
    assert all(isinstance(entry, Lease) or entry.lease for entry in entries)


PACE = 160.0


def with_fast_answers(late: float) -> Counting:
    """Eight warm slots of a fast server, whose answers had to end so many seconds ago."""
    counting = Counting(64)
    counting.fill(8)
    pool = counting.scheduler.pools["m"]
    pool.mean_rate, pool.mean_pace = 20000.0, PACE
    for backend in pool.backends.values():
        backend.evaluating = 0
    for slot in pool.backends["b0"].slots[:8]:
        assert slot.limit, "or an answer is never late"
        slot.streaming, slot.first = True, counting.clock.now - slot.limit / PACE - late
    return counting


def test_requests_that_wait_for_busy_slots_by_choice_do_not_keep_others_from_free_ones() -> None:
    counting = with_fast_answers(late=0.0)
    pool = counting.scheduler.pools["m"]
    first = decide(counting.question(0), pool, counting.clock.now)
    assert isinstance(first, WaitForSlot) and first.key is not None
    for number in range(300):
        wanted = counting.question(number)
        pool.line.park(Ticket(counting.scheduler, wanted, ConversationRecord(), 0.0), first.key)
    assert isinstance(decide(counting.question(301), pool, counting.clock.now), Grant)


def test_nobody_waits_for_answers_that_take_much_longer_than_expected() -> None:
    counting = with_fast_answers(late=10.0)
    pool = counting.scheduler.pools["m"]
    assert isinstance(decide(counting.question(0), pool, counting.clock.now), Grant)


def test_no_request_waits_to_save_less_than_a_wait_is_worth() -> None:
    counting = with_fast_answers(late=0.0)
    pool = counting.scheduler.pools["m"]
    pool.mean_rate = 2e6  # a millisecond's evaluation
    pool.mean_pace = 16e6  # no wait to speak of
    for slot in pool.backends["b0"].slots[:8]:
        slot.first = counting.clock.now
    assert isinstance(decide(counting.question(0), pool, counting.clock.now), Grant)


def test_free_slot_with_the_prefix_is_found_behind_many_busy_ones() -> None:
    counting = Counting(64)
    leases = counting.fill(64)
    counting.release(leases[40])
    entry = counting.enter(1)
    assert isinstance(entry, Lease) and entry.slot is leases[40].slot
    assert entry.grant.cached > 2000
