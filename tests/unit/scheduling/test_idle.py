"""Requests that use idle slots only: others never wait for them longer than they must."""

from __future__ import annotations

import pytest

from proxy.errors import NoBackend, NoIdleSlot
from proxy.scheduling.idle import KEPT
from proxy.scheduling.lease import Lease, Outcome, Ticket
from proxy.scheduling.state import BackendFacts
from tests.unit.scheduling.fakes import World, check_slots, slot_request

LONG = "a long prompt " * 100


def idle(world: World, prompt: str = "line") -> Lease:
    return world.take(prompt, idle=True, background=True)


def test_last_free_slot_is_left_to_others() -> None:
    world = World(slots=3)
    leases = [idle(world), idle(world)]
    assert world.scheduler.idle_slots("m") == 2
    with pytest.raises(NoIdleSlot):
        idle(world)
    leases.append(world.take("a person's question"))
    assert world.scheduler.waiting == 0
    check_slots(world.scheduler, leases)


def test_single_slot_is_used_while_nobody_else_needs_it() -> None:
    world = World(slots=1)
    assert world.scheduler.idle_slots("m") == 1
    assert not idle(world).wanted


def test_waiting_request_gets_the_slot_of_an_idle_one() -> None:
    world = World(slots=1)
    line, gone = idle(world), []
    line.on_wanted(lambda: gone.append(True))
    ticket = world.waits("a question")
    assert gone and line.wanted
    line.release()
    assert ticket.lease is not None
    with pytest.raises(NoIdleSlot):
        idle(world)
    assert world.scheduler.idle_slots("m") == 0


def test_only_as_many_idle_requests_give_way_as_others_wait() -> None:
    world = World(slots=3)
    lines = [idle(world, f"line {i}") for i in range(2)]
    for line in lines:
        line.on_first_token(line.slot.id)  # their evaluation is over
    world.take("first")
    assert sorted(line.wanted for line in lines) == [False, True], "a slot for the next one"
    world.scheduler.enter(slot_request("second"))
    assert sorted(line.wanted for line in lines) == [False, True]
    world.scheduler.enter(slot_request("third"))
    assert [line.wanted for line in lines] == [True, True]


def test_idle_request_in_evaluation_gives_way_to_a_new_one_on_its_backend() -> None:
    world = World(slots=3)
    first, second = idle(world, "one"), idle(world, "two")
    first.on_first_token(first.slot.id)
    world.take("a person's question")
    assert (first.wanted, second.wanted) == (False, True)


def test_idle_request_beside_others_evaluates_little() -> None:
    world = World(slots=4)
    person = world.take("a person's question")
    with pytest.raises(NoIdleSlot):
        idle(world)  # the question is still evaluated
    person.on_first_token(person.slot.id)
    with pytest.raises(NoIdleSlot):
        idle(world, LONG)
    idle(world, "short")


def test_idle_request_leaves_slots_to_conversations_that_may_return() -> None:
    world = World(slots=2)
    world.turn(LONG)
    assert world.scheduler.idle_slots("m") == 0
    with pytest.raises(NoIdleSlot):
        idle(world)
    world.clock.now += 3600
    assert world.scheduler.idle_slots("m") == 1
    idle(world)


def test_conversations_that_nobody_continues_do_not_hold_up_a_batch() -> None:
    world = World(slots=2)
    world.turn(LONG)
    world.turn("another " + LONG)
    world.clock.now += KEPT - 1
    assert world.scheduler.idle_slots("m") == 0
    world.clock.now += 1
    assert world.scheduler.idle_slots("m") == 1
    idle(world)


def test_idle_requests_tell_nothing_about_conversations_that_may_return() -> None:
    world = World(slots=3)
    for number in range(200):
        idle(world, f"line {number}").release(Outcome(end="whole"))
    world.turn(LONG)
    assert world.scheduler.idle_slots("m") == 1, "its slot is not spare"


def test_idle_request_may_replace_another_idle_one() -> None:
    world = World(slots=1)
    idle(world, LONG).release(Outcome(end="whole"))
    idle(world, "another " + LONG)


def test_idle_request_makes_way_once_no_spare_slot_is_left() -> None:
    world = World(slots=4)
    world.turn(LONG)
    line = idle(world)
    line.on_first_token(line.slot.id)
    world.take("a first question " + LONG)
    assert not line.wanted, "one slot is still spare"
    world.take("a second question " + LONG)
    assert line.wanted


def test_idle_requests_do_not_wait_in_the_queue() -> None:
    world = World(slots=2)
    for i in range(2):
        world.take(f"question {i}")
    ticket = world.waits("question 2")
    with pytest.raises(NoIdleSlot):
        idle(world)
    assert ticket.place == 1


def test_idle_request_is_refused_while_its_backend_is_down() -> None:
    world = World(slots=2, wait_for_backend=10.0)
    world.scheduler.mark("b0", False)
    with pytest.raises(NoBackend):
        idle(world)
    assert world.scheduler.idle_slots("m") == 0


def test_whole_backend_is_freed_for_a_request_that_needs_it() -> None:
    world = World(slots=3)
    lines = [idle(world, f"line {i}") for i in range(2)]
    for line in lines:
        line.on_first_token(line.slot.id)
    world.scheduler.enter(slot_request("", whole_backend=True))
    assert all(line.wanted for line in lines)


def test_idle_request_on_another_model_stays() -> None:
    world = World(slots=1)
    world.scheduler.update("other", BackendFacts(model="n", slots=1), up=True)
    line = idle(world)
    asked = slot_request()
    taken = [world.scheduler.enter(type(asked)(model="n")) for _ in range(2)]
    assert isinstance(taken[1], Ticket) and not line.wanted


def test_idle_request_takes_the_slot_whose_prompt_it_continues() -> None:
    world = World(slots=2)
    world.turn(LONG)
    with pytest.raises(NoIdleSlot):
        idle(world, "another " + LONG)
    assert idle(world, LONG + "and a draft").slot.id == 0
