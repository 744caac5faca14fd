"""The conversations of a session: an agent, its sub-agents and its titles."""

from __future__ import annotations

import itertools

import pytest

from proxy.scheduling import history
from proxy.scheduling.history import Returns
from proxy.scheduling.lease import Lease, Outcome
from proxy.scheduling.pool import Pool
from proxy.scheduling.state import ConversationRecord, SlotRequest

from .fakes import World

MAIN = "You are an agent. " * 200
SUB = "You search in files. " * 100
TITLE = "Write a title. " * 10


def _end(world: World, lease: Lease, *tools: str, seconds: float = 1.0) -> Lease:
    world.clock.now += seconds
    lease.release(Outcome(end="whole", slot=lease.slot.id, completion=4, calls=bool(tools)))
    return lease


def _turn(
    world: World, *messages: str, calls: str = "", seconds: float = 1.0, **fields: object
) -> Lease:
    """A turn of these messages, answered with a call of the tool `calls`, or with a text."""
    ends = tuple(itertools.accumulate(map(len, messages)))
    lease = world.take("".join(messages), ends, **{"session": "s", "tools": True, **fields})
    return _end(world, lease, *filter(None, [calls]), seconds=seconds)


def _pool(world: World) -> Pool:
    return world.scheduler.pools["m"]


def test_sub_agent_is_a_conversation_beside_the_main_one() -> None:
    world = World()
    main = _turn(world, MAIN, calls="Task").conversation
    sub = _turn(world, SUB, calls="Read").conversation
    assert sub is not main
    assert sub.beside and not main.beside
    assert _turn(world, SUB, "result", calls="Read").conversation is sub
    assert _turn(world, MAIN, "result").conversation is main
    assert list(_pool(world).sessions.main.values()) == [main]


def test_title_that_comes_first_is_not_the_main_conversation() -> None:
    world = World()
    title = _turn(world, TITLE, tools=False).conversation
    main = _turn(world, MAIN, calls="Read").conversation
    assert title.beside and not main.beside


def test_title_of_an_agent_is_a_side_job() -> None:
    world = World()
    main = _turn(world, MAIN, calls="Read").conversation
    title = _turn(world, TITLE, tools=False)
    assert title.request.background and title.conversation.background
    assert _turn(world, MAIN, "result").conversation is main
    assert not main.background


def test_title_that_continues_is_a_conversation_after_all() -> None:
    world = World()
    _turn(world, MAIN, calls="Read")
    title = _turn(world, TITLE, tools=False).conversation
    assert _turn(world, TITLE, "and more", tools=False).conversation is title
    assert not title.background


def test_chat_without_tools_has_no_side_jobs_by_itself() -> None:
    world = World()
    chat = _turn(world, MAIN, tools=False).conversation
    other = _turn(world, TITLE, tools=False)
    assert not other.request.background
    assert other.conversation.beside and not chat.beside


def test_shortened_prompt_becomes_the_main_conversation() -> None:
    world = World()
    long = _turn(world, MAIN).conversation
    compacted = _turn(world, SUB, calls="Read").conversation
    assert long.beside and not compacted.beside


def test_abandoned_tool_call_does_not_keep_its_place_forever() -> None:
    world = World()
    long = _turn(world, MAIN, calls="Read").conversation
    world.clock.now += 3600
    anew = _turn(world, SUB, calls="Read").conversation
    assert long.beside and not anew.beside


def test_conversation_of_another_session_is_not_continued() -> None:
    world = World()
    mine = _turn(world, MAIN, session="mine").conversation
    assert _turn(world, MAIN, "more", session="other").conversation is not mine
    assert _turn(world, MAIN, "more", session="mine", group="g").conversation is not mine


def test_main_conversation_is_as_recent_as_its_session() -> None:
    world = World()
    main = _turn(world, MAIN, calls="Task").conversation
    sub = _turn(world, SUB, calls="Read", seconds=300).conversation
    chance = _pool(world).returns.chance
    assert chance(main, world.clock.now) > 0.7
    _turn(world, SUB, "result", seconds=300)
    assert chance(main, world.clock.now) > 0.7
    assert chance(sub, world.clock.now) < 0.3


def test_short_pauses_of_a_user_do_not_make_a_busy_session_forgotten() -> None:
    world = World()
    _turn(world, MAIN)
    main = _turn(world, MAIN, "more", calls="Task").conversation
    assert _pool(world).returns.gap < 1
    _turn(world, SUB, calls="Read", seconds=30)
    world.clock.now += 5
    assert _pool(world).returns.chance(main, world.clock.now) > 0.7


def test_conversation_in_a_tool_call_is_expected_back() -> None:
    world = World()
    calls = _turn(world, MAIN, calls="Read", session="").conversation
    text = _turn(world, SUB, session="").conversation
    chance = _pool(world).returns.chance
    assert chance(calls, world.clock.now) > chance(text, world.clock.now)


def test_user_gaps_are_not_mixed_with_those_of_tools() -> None:
    world = World()
    messages = [MAIN]
    for _ in range(20):
        _turn(world, *messages, calls="Read")
        messages.append("result " * 10)
        world.clock.now += 0.1
    assert _pool(world).returns.gap == 60.0


def test_chance_of_a_return_falls_with_silence_though_all_conversations_returned() -> None:
    returns, conversation = Returns(), ConversationRecord()
    for arrived in range(100):
        returns.turn(conversation, arrived=float(arrived))
        conversation.last = float(arrived)
    conversation.turns = 1
    returns.reached[1] = 0.0  # turns that end with a tool call are taken back
    assert returns.chance(conversation, 100.0) > 0.9
    assert returns.chance(conversation, 200.0) < 0.01


def test_sessions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "REMEMBERED", 20)
    pool = Pool()
    for number in range(30):
        request = SlotRequest(model="m", session=str(number), tools=True)
        pool.record_turn(request, pool.conversation(request), float(number))
    assert len(pool.sessions.main) == 20


def test_wait_in_the_queue_is_no_part_of_a_gap() -> None:
    pool, conversation = Pool(), ConversationRecord()
    pool.record_turn(SlotRequest(model="m"), conversation, 1.0)
    conversation.last, conversation.calls, conversation.open = 10.0, False, False
    pool.record_turn(SlotRequest(model="m", since=11.0), conversation, 50.0)
    assert pool.returns.gap == 1.0


def _named(session: str, group: str = "") -> SlotRequest:
    return SlotRequest(model="m", session=session, group=group)


def test_session_names_are_stored_as_digests() -> None:
    pool = Pool()
    for number in range(50):
        request = _named("x" * 1_000_000 + str(number))
        pool.record_turn(request, pool.conversation(request), 1.0)
    assert len(pool.sessions.main) == 50
    assert all(type(name) is bytes and len(name) == 16 for name in pool.sessions.main)


def test_session_is_found_only_in_its_own_group() -> None:
    pool = Pool()
    conversation = ConversationRecord(group="a")
    pool.record_turn(_named("mine", "a"), conversation, 1.0)
    assert pool.conversation(_named("mine", "a")) is conversation
    assert pool.conversation(_named("mine", "b")) is not conversation
    assert pool.conversation(_named("\ud800", "a")) is not conversation
