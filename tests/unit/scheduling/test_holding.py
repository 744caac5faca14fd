"""Slots of conversations that are about to return are left to them, for as long as that pays."""

from __future__ import annotations

import itertools

import pytest

from proxy.runtime.cancel import Cancel
from proxy.scheduling.lease import Lease, Outcome, Ticket
from proxy.scheduling.policy import OTHERS, OWN

from .fakes import World, slot_request

MAIN = "You are an agent. " * 2400  # about 20 seconds to evaluate
OTHER = "You search in files. " * 1000  # about 10
SHORT = "Say hello. " * 4
USUAL = 3.0  # seconds for which a call of a tool is waited for, before its gaps are known


def _enter(world: World, *messages: str, **fields: object) -> Lease | Ticket:
    ends = tuple(itertools.accumulate(map(len, messages)))
    return world.scheduler.enter(slot_request("".join(messages), ends, **fields))


def _granted(entry: Lease | Ticket) -> Lease:
    assert isinstance(entry, Lease)
    return entry


def _end(world: World, lease: Lease, *tools: str) -> Lease:
    lease.release(Outcome(end="whole", slot=lease.slot.id, completion=4, calls=bool(tools)))
    return lease


def _lease(ticket: Lease | Ticket) -> Lease | None:
    assert isinstance(ticket, Ticket)
    return ticket.wait(Cancel(), 0.0)


def _full(world: World, **fields: object) -> tuple[Lease, Lease]:
    """Both slots of a world: one with a conversation in a tool call, the other one busy."""
    main = _granted(_enter(world, MAIN, tools=True, **fields))
    busy = _granted(_enter(world, OTHER, tools=True, **fields))
    return _end(world, main, "Read"), busy


def test_slot_of_a_conversation_in_a_tool_call_is_left_to_it() -> None:
    world = World(slots=2)
    main, _ = _full(world)
    waiting = _enter(world, SHORT)
    assert _lease(waiting) is None
    world.clock.now += 0.5
    is_retry = _granted(_enter(world, MAIN, "result", tools=True))
    assert is_retry.slot is main.slot
    assert is_retry.grant.cached > 9000
    assert _lease(waiting) is None


def test_slot_is_not_held_beyond_the_usual_time_of_the_tool() -> None:
    world = World(slots=2)
    main, _ = _full(world)
    waiting = _enter(world, SHORT)
    world.clock.now += USUAL - 0.1
    assert _lease(waiting) is None
    world.clock.now += 0.2
    lease = _lease(waiting)
    assert lease is not None and lease.slot is main.slot


def test_request_does_not_wait_again_and_again() -> None:
    world = World(slots=2)
    main, _ = _full(world)
    waiting = _enter(world, SHORT)
    begun, messages = world.clock.now, [MAIN]
    while (lease := _lease(waiting)) is None:
        world.clock.now += 0.5
        messages.append("result ")
        main = _granted(_enter(world, *messages, tools=True))
        world.clock.now += 0.5
        _end(world, main, "Read")
        assert world.clock.now < begun + OTHERS + 2
    assert world.clock.now > begun + 5
    assert lease.slot is main.slot


def test_other_slot_that_is_released_goes_to_the_waiting_request() -> None:
    world = World(slots=2)
    _, busy = _full(world)
    waiting = _enter(world, SHORT)
    world.clock.now += 0.1
    _end(world, busy)
    lease = _lease(waiting)
    assert lease is not None and lease.slot is busy.slot


def test_free_slot_without_a_call_is_taken_at_once() -> None:
    world = World(slots=2)
    main, busy = _full(world)
    _end(world, busy)
    assert _granted(_enter(world, SHORT)).slot is busy.slot
    assert main.slot.held is main.written


def test_short_prompt_is_not_waited_for() -> None:
    world = World(slots=1)
    _end(world, _granted(_enter(world, SHORT, tools=True)), "Read")
    assert isinstance(_enter(world, OTHER), Lease)


def test_full_queue_uses_a_slot_that_is_held() -> None:
    world = World(slots=2, max_queue=0)
    _full(world)
    assert isinstance(_enter(world, SHORT), Lease)


@pytest.mark.parametrize("session", ["", "another"])
def test_sub_agent_waits_longer_for_its_own_main_conversation(session: str) -> None:
    world = World(slots=2)
    _full(world, session="agent")
    waiting = _enter(world, SHORT, "Search.", session=session or "agent", tools=True)
    world.clock.now += OTHERS + 1
    assert (_lease(waiting) is None) == (not session)
    world.clock.now += OWN
    assert session or _lease(waiting) is not None


def test_sub_agents_do_not_evict_each_other_in_turns() -> None:
    world = World(slots=2)
    main = _end(world, _granted(_enter(world, MAIN, session="s", tools=True)), "Task")
    first = _granted(_enter(world, "1 " + OTHER, session="s", tools=True))
    waiting = _enter(world, "2 " + OTHER, session="s", tools=True)
    messages = ["1 " + OTHER]
    for _ in range(10):
        world.clock.now += 2
        _end(world, first, "Read")
        assert _lease(waiting) is None
        world.clock.now += 0.5
        messages.append("result ")
        is_retry = _granted(_enter(world, *messages, session="s", tools=True))
        assert is_retry.slot is first.slot is not main.slot
        first = is_retry
    _end(world, first)
    lease = _lease(waiting)
    assert lease is not None and lease.slot is first.slot
