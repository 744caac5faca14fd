"""The scheduler and its policy, with a manual clock."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence

import msgspec
import pytest

from proxy.errors import Cancelled, NoBackend, QueueFull, QueueTimeout
from proxy.runtime.cancel import Cancel
from proxy.scheduling.lease import Lease, Outcome, Ticket
from proxy.scheduling.policy import decide
from proxy.scheduling.pool import LOOKED_AT
from proxy.scheduling.state import (
    MOST_SLOTS,
    BackendFacts,
    ConversationRecord,
    Grant,
    SlotRequest,
    WaitForSlot,
)
from tests.unit.scheduling.fakes import World, ended, granted, slot_request

A = "system of a " * 100
B = "system of b " * 100


def _conversation(name: str, turns: int) -> tuple[str, tuple[int, ...]]:
    text, ends = "", []
    for turn in range(turns + 1):
        text += f"{name}-{turn} " * 60
        ends.append(len(text))
    return text, tuple(ends)


# choice of the slot


def test_conversation_returns_to_its_slot() -> None:
    world = World(slots=4)
    where: dict[str, int] = {}
    for turn in range(1, 5):
        for name in ("a", "b", "c", "d"):
            slot = world.turn(*_conversation(name, turn)).slot.id
            assert where.setdefault(name, slot) == slot
    assert len(set(where.values())) == 4


def test_conversation_likely_finished_is_evicted_first() -> None:
    world = World(slots=3)
    for number in range(12):  # conversations that end after two turns
        for turn in (1, 2):
            world.turn(*_conversation(f"short{number}", turn))
    world.turn(*_conversation("long", 1))
    keep = world.turn(*_conversation("long", 2)).slot
    new = world.turn(*_conversation("new", 1)).slot
    newer = world.turn(*_conversation("newer", 1)).slot
    # By experience, `long` has finished after its two turns and `new` will return.
    assert new is not keep
    assert world.turn(*_conversation("new", 2)).slot is new
    assert newer is not new


def test_backend_with_loaded_model_is_preferred() -> None:
    world = World(slots=2, backends=2)
    world.scheduler.mark("b0", True, load_delay=5.0)
    assert [world.take(text).backend for text in (A, B)] == ["b1", "b1"]
    world.scheduler.mark("b0", True)
    assert world.take("something else").backend == "b0"


def test_long_turn_waits_for_its_warm_slot() -> None:
    world = World(slots=2)
    text, ends = "x" * 40000, (40000,)
    world.take(text, ends).release(ended(0, 10000, evaluating=10.0))
    busy = world.take(text, ends)
    world.clock.now += 0.9
    ticket = world.waits(text + " y", (40000, 40002))
    busy.release(ended(busy.slot.id, 10000, 10000))
    assert granted(ticket).slot is busy.slot


def test_short_turn_does_not_wait_for_its_warm_slot() -> None:
    world = World(slots=2)
    world.turn("short", (5,))
    busy = world.take("short", (5,))
    other = world.scheduler.enter(slot_request("short too", (5, 9)))
    assert isinstance(other, Lease)
    assert other.slot is not busy.slot


def test_wait_for_a_busy_slot_is_as_long_as_its_answer_may_be() -> None:
    world = World(slots=2)
    text = "x" * 4000
    world.take(text).release(ended(0, 1000, evaluating=2.0))
    for limit, waits in ((20, True), (200, False)):  # 1 s and 10 s at 20 tokens a second
        busy = world.scheduler.enter(_limited(world, text, limit))
        assert isinstance(busy, Lease)
        busy.on_first_token(busy.slot.id)
        entry = world.scheduler.enter(_limited(world, text + " y", 16))
        assert isinstance(entry, Ticket) is waits
        busy.release()
        lease = entry.wait(Cancel()) if isinstance(entry, Ticket) else entry
        assert lease is not None
        lease.release()


@pytest.mark.parametrize("backends", [1, 2])
def test_evaluation_for_one_delays_the_requests_that_wait(backends: int) -> None:
    world = World(slots=3, backends=backends)
    pool = world.scheduler.pools["m"]
    busy = world.take("s" * 4000)
    busy.on_first_token(busy.slot.id)
    question = slot_request("s" * 4000 + " q", (4000, 4002))
    pool.mean_pace = 4.0  # the busy slot is free in 4 s, the same prompt is evaluated in 2
    assert isinstance(decide(question, pool, world.clock.now), Grant)
    waiting = [Ticket(world.scheduler, question, ConversationRecord(), 0.0) for _ in range(2)]
    for ticket in waiting:
        pool.line.activate(ticket)
    assert isinstance(decide(question, pool, world.clock.now), WaitForSlot)


@pytest.mark.parametrize(("shared", "waits"), [(2000, True), (200, False)])
def test_request_waits_for_no_busy_slot_with_little_of_its_prompt(shared: int, waits: bool) -> None:
    world = World(slots=2)
    busy = world.take("s" * shared)
    world.take("o" * 20000).release(ended(1, 5000, evaluating=10.0))
    busy.on_first_token(busy.slot.id)
    world.scheduler.on_last_token(busy)
    question = slot_request("s" * shared + "q" * (4000 - shared), (shared, 4000))
    decision = decide(question, world.scheduler.pools["m"], world.clock.now)
    assert isinstance(decision, WaitForSlot) is waits


def test_prompts_of_a_backend_are_evaluated_one_after_the_other() -> None:
    world = World(slots=4, backends=2)
    first = world.take("a" * 8000)
    pool = world.scheduler.pools["m"]
    backend = pool.backends[first.backend]
    assert pool.backlog(backend, world.clock.now) == pytest.approx(4.0, rel=0.01)
    assert world.take("b" * 80).backend != first.backend
    world.clock.now += 1.0
    assert pool.backlog(backend, world.clock.now) == pytest.approx(3.0, rel=0.01)
    first.on_first_token(first.slot.id)
    assert pool.backlog(backend, world.clock.now) == 0.0
    first.release()
    world.take("c" * 8000).release()  # the client left before its first token
    assert all(pool.backlog(one, world.clock.now) < 0.1 for one in pool.backends.values())


def _limited(world: World, prompt: str, limit: int) -> SlotRequest:
    plain = slot_request(prompt, (4000, len(prompt)))
    return msgspec.structs.replace(plain, max_tokens=limit)


def test_load_is_shared_by_backend_weight() -> None:
    world = World(slots=8, backends=2)
    world.scheduler.update("b1", BackendFacts(model="m", slots=8, weight=3.0), up=True)
    leases = [world.take(f"{n}" * 400) for n in range(8)]
    names = [lease.backend for lease in leases]
    assert names.count("b1") > names.count("b0") > 0


def test_side_job_uses_spare_slot_and_evicts_nothing() -> None:
    world = World(slots=3)
    chats = [world.turn(*_conversation(name, 2)).slot for name in ("a", "b")]
    side_job = world.turn("### Task: a title" * 20, background=True).slot
    assert side_job not in chats
    for number in range(5):
        assert world.turn(f"### Task {number}: tags" * 20, background=True).slot is side_job
    assert world.turn(*_conversation("a", 3)).slot is chats[0]


def test_least_recently_used_slots_of_an_evaluating_backend_do_not_hide_idle_backends() -> None:
    world = World(slots=LOOKED_AT + 4)
    world.take("a long document " * 10_000)
    world.scheduler.update("b1", BackendFacts(model="m", slots=2), up=True)
    # From here on, the free slots that were used least recently are all of the first backend.
    assert [world.turn(f"question {n}").backend for n in range(2)] == ["b1", "b1"]
    assert [world.take(f"{n} other questions").backend for n in range(2)] == ["b1", "b1"]


def test_slots_of_evaluating_backends_are_compared_if_there_are_no_others() -> None:
    world = World(slots=4, backends=2)
    world.take("a long document " * 10_000)
    assert world.take("a shorter document " * 1_000).backend == "b1"
    assert [world.take(f"question {n}").backend for n in range(3)] == ["b1"] * 3
    assert world.take("question 3").backend == "b0"


def test_fresh_backends_are_filled_evenly() -> None:
    world = World(slots=64, backends=20)
    leases = [world.take(f"question {number} " * 200) for number in range(40)]
    assert set(Counter(lease.backend for lease in leases).values()) == {2}


# reconciliation with the server


def test_slot_reported_by_server_replaces_requested_slot() -> None:
    world = World(slots=4)
    first = world.turn(*_conversation("a", 1))
    lease = world.take(*_conversation("b", 1))
    asked, real = lease.slot.id, (lease.slot.id + 1) % 4
    lease.on_first_token(real)
    assert lease.slot.id == real
    lease.release(ended(real, 100))
    assert world.turn(*_conversation("b", 2)).slot.id == real
    assert first.slot.id != real or asked == first.slot.id


def test_busy_outcome_keeps_cached_prompt_of_the_slot() -> None:
    world = World(slots=1)
    world.turn(*_conversation("a", 1))
    lease = world.take(*_conversation("b", 1))
    lease.release(Outcome(end="busy"))
    world.clock.now += 1
    is_retry = world.take(*_conversation("a", 2))
    assert is_retry.grant.cached > 100


def test_slot_count_is_learned_when_slot_number_repeats() -> None:
    """The server of 2023 picks its least recently used slot: a repeated number means that all
    have been seen."""
    world = World(slots=0)
    for number in range(9):
        lease = world.take(f"conversation {number} " * 30)
        assert lease.pinned == -1 or number == 8
        if number < 7:
            lease.on_first_token(number)
            lease.release(ended(number, 100))
        elif number == 7:
            lease.on_first_token(0)
            lease.release(ended(0, 100))
        else:
            lease.release()
    assert world.scheduler.slots("b0") == 7


def test_slot_count_is_learned_from_busy_answers() -> None:
    world = World(slots=0)  # 4 assumed, 2 in reality
    scheduler = world.scheduler
    leases = [world.take(f"{n}" * 50) for n in range(4)]
    for number, lease in enumerate(leases[:2]):
        lease.on_first_token(number)
    tickets = []
    for lease in leases[2:]:
        lease.release(Outcome(end="busy"))
        tickets.append(world.waits("again", is_retry=True))
    assert scheduler.slots("b0") == 2
    assert scheduler.waiting == 2
    leases[0].release(ended(0, 10))
    world.clock.now += 1
    granted(tickets[0]).release()
    for ticket in tickets[1:]:
        ticket.leave()
    leases[1].release()
    assert scheduler.outstanding == 0


def test_guessed_slot_count_grows_by_one_after_a_while() -> None:
    world = World(slots=0)
    scheduler = world.scheduler
    leases = [world.take(f"{n}" * 50) for n in range(4)]
    ticket = scheduler.enter(slot_request("more"))
    assert isinstance(ticket, Ticket) and ticket.lease is None
    world.clock.now += 6
    scheduler.mark("b0", up=True)
    assert ticket.wait(Cancel()) is not None
    assert scheduler.slots("b0") == 5
    assert len(leases) == 4


def test_dropping_a_moved_prompt_keeps_new_prompt_of_its_old_slot() -> None:
    """A prompt that moved to another slot is dropped at its end; its old slot holds a new one."""
    world = World(slots=2)
    world.scheduler.update("b0", BackendFacts(model="m", slots=2, pins=False), up=True)
    world.turn(*_conversation("a", 1))
    moves = world.take(*_conversation("a", 2))  # in the other slot, which was free for longer
    stays = world.take(*_conversation("b", 1))
    assert stays.slot is not moves.slot
    moves.release(ended(moves.slot.id, 100, 50))
    assert stays.slot.held is stays.written
    stays.release(ended(stays.slot.id, 100))
    for number in range(20):
        world.turn(*_conversation(f"c{number}", 1))
    pool = world.scheduler.pools["m"]
    known = {held for holders in pool.index.values() for prompts in holders for held in prompts}
    assert known == {slot.held for slot in pool.backends["b0"].slots}


# groups


@pytest.mark.parametrize(
    ("adapters", "groups"), [(False, "abb"), (True, ["\0poet", "\0pirate", "", ""])]
)
def test_groups_and_adapters_do_not_reuse_cached_prompts_of_each_other(
    adapters: bool, groups: Sequence[str]
) -> None:
    world = _with_adapters() if adapters else World(slots=1, groups=True)
    text, ends = _conversation("shared", 1)
    leases = [world.turn(text, ends, group=group) for group in groups]
    *others, again = [lease.grant for lease in leases]
    assert [(grant.fresh, grant.cached) for grant in others] == [(True, 0)] * len(others)
    own = world.take(*_conversation("shared", 2), group=groups[-1]).grant
    assert not (again.fresh or own.fresh) and again.cached > 0 and own.cached > 0


def test_leak_is_detected_when_cached_tokens_exceed_own_prompt() -> None:
    world = World(slots=1, groups=True)
    lease = world.take(*_conversation("a", 1), group="a")
    assert not world.scheduler.leaks(lease, ended(0, 200, 1))
    assert world.scheduler.leaks(lease, ended(0, 200, 150))
    lease.release(msgspec.structs.replace(ended(0, 200, 150), erased=True))
    is_retry = world.take(*_conversation("a", 2), group="a")
    assert is_retry.grant.fresh


def test_prompt_before_one_that_the_server_never_read_is_no_leak() -> None:
    world = World(slots=1, groups=True)
    world.turn(*_conversation("long", 20), group="a")
    world.take(*_conversation("short", 1), group="a").release(Outcome(end="cut", slot=0))
    is_retry = world.take(*_conversation("long", 20), group="a")
    assert not is_retry.grant.fresh
    assert not world.scheduler.leaks(is_retry, ended(0, 518, 518))


def test_own_prompt_in_the_slot_that_the_server_chose_is_no_leak() -> None:
    world = World(slots=2, groups=True)
    for group, leaks in ("a", False), ("b", True):
        first = world.take(*_conversation("short", 1), group="a")
        world.take(*_conversation(f"long {group}", 20), group=group).release(ended(1, 518))
        first.release(ended(0, 8))
        is_retry = world.take(*_conversation("short", 2), group="a")
        assert is_retry.slot.id == 0
        is_retry.on_first_token(1)
        assert world.scheduler.leaks(is_retry, ended(1, 518, 518)) == leaks
        is_retry.release(ended(1, 518, 518))


def test_own_prompts_in_slots_that_the_server_exchanged_are_no_leak() -> None:
    world = World(slots=2, groups=True)
    for group, leaks in ("a", False), ("b", True):
        first = world.take("s" * 16, group="a")
        other = world.take(*_conversation(f"long {group}", 20), group=group)
        first.release(ended(0, 4))
        other.release(ended(1, 518))
        first, other = world.take("s" * 24, group="a"), world.take("l" * 9000, group=group)
        assert [first.slot.id, other.slot.id] == [0, 1]
        first.on_first_token(1)
        other.on_first_token(0)
        assert world.scheduler.leaks(first, ended(1, 518, 518)) == leaks
        other.release(ended(0, 518))
        first.release(ended(1, 518))


def test_own_prompt_that_an_old_server_evaluated_in_another_slot_is_no_leak() -> None:
    world = World(slots=2, groups=True)
    world.scheduler.update("b0", BackendFacts(model="m", slots=2, release_delay=0.005), up=True)
    first, second = world.take("s" * 16, group="a"), world.take("t" * 16, group="a")
    first.release(ended(0, 4))
    second.release(ended(1, 4))
    world.clock.now += 1
    long, other = world.take(*_conversation("l", 20), group="a"), world.take("t" * 17, group="a")
    long.release(Outcome(end="cut"))
    assert not world.scheduler.leaks(other, ended(other.slot.id, 518, 518))


def test_slot_of_an_old_server_comes_free_when_the_request_beside_it_is_not_sent() -> None:
    """Such a server frees slots between its rounds, and that request is in none."""
    world = World(slots=2)
    world.scheduler.update("b0", BackendFacts(model="m", slots=2, release_delay=0.005), up=True)
    answered, unsent = world.take("a" * 40), world.take("b" * 40)
    answered.release(ended(0, 40))
    unsent.release()
    world.clock.now += 1
    (backend,) = world.scheduler.view(None, "").backends
    assert [slot.state for slot in backend.slots] == ["free", "free"]


def test_unknown_content_of_the_slot_that_the_server_chose_is_no_leak() -> None:
    world = World(slots=2, groups=True)
    world.turn(*_conversation("a", 1), group="a")
    is_retry = world.take(*_conversation("a", 2), group="a")
    assert is_retry.slot.id == 0
    is_retry.on_first_token(1)
    assert not is_retry.grant.fresh and not world.scheduler.leaks(is_retry, ended(1, 200, 150))


def test_leak_from_the_cache_that_a_server_keeps_in_ram() -> None:
    """Such a server may reuse any prompt, so this group's own prompts are the bound."""
    world = World(groups=True)
    facts = BackendFacts(model="m", slots=1, pins=False, cache_kind="ram")
    world.scheduler.update("b0", facts, up=True)
    text = "a" * 400
    first = world.take(text, (400,), group="a")
    first.on_first_token(0)
    first.release(Outcome(end="cut", slot=0, completion=1))  # without a count of its prompt
    is_retry = world.take(text + "b" * 40, (400, 440), group="a")
    assert is_retry.grant.reuse is not None and not is_retry.grant.fresh
    assert not world.scheduler.leaks(is_retry, ended(0, 900, 390))
    assert world.scheduler.leaks(is_retry, ended(0, 900, 800))


def test_another_groups_prompt_is_not_reused_after_one_that_the_server_never_read() -> None:
    world = World(slots=1, groups=True)
    world.turn(*_conversation("shared", 5), group="a")
    world.take(*_conversation("shared", 5), group="b").release(Outcome(end="cut", slot=0))
    is_retry = world.take(*_conversation("shared", 5), group="b")
    assert is_retry.grant.fresh
    is_retry.release()


def test_beginning_of_the_groups_own_prompt_is_no_leak() -> None:
    """Two questions begin alike, in fewer characters than one link of their chains."""
    world = World(slots=1, groups=True)
    begin = "Summarize for a busy reader: " * 4
    world.turn(f"{begin}the first report", (len(begin) + 16,), group="a")
    second = world.take(f"{begin}another one", (len(begin) + 11,), group="a")
    assert not second.grant.fresh and second.grant.reuse is None
    assert not world.scheduler.leaks(second, ended(0, 40, 30))


# the queue


def test_one_key_cannot_fill_the_queue() -> None:
    world = World(slots=1, max_queue=4)
    scheduler = world.scheduler
    lease = world.take("a", key="greedy")

    def enter(key: str, is_retry: bool = False) -> Ticket:
        return world.waits(key, is_retry=is_retry, key=key)

    greedy = [enter("greedy") for _ in range(4)]
    modest = [enter("modest")]
    assert scheduler.waiting == 4
    with pytest.raises(QueueFull, match="in favor of another key") as lost:
        greedy[3].wait(Cancel())
    assert lost.value.retry_after is not None and lost.value.retry_after >= 1
    modest.append(enter("modest"))
    assert [ticket.error is None for ticket in greedy] == [True, True, False, False]
    for key in ("greedy", "modest"):  # each key has half of the queue
        with pytest.raises(QueueFull, match="the queue is full: 4 requests are already") as full:
            enter(key)
        assert full.value.retry_after is not None and full.value.retry_after >= 1
    # a returning request is queued above the bound and is not refused
    first = enter("greedy", is_retry=True)
    assert scheduler.waiting == 5 and first.error is None
    for ticket in (*greedy, *modest, first):
        ticket.leave()
        assert ticket.conversation.waiting == 0
    assert scheduler.waiting == 0
    lease.release()


def test_free_slot_is_used_if_the_queue_has_no_room_to_wait_for_a_better_one() -> None:
    world = World(slots=2, max_queue=1)
    text, ends = "x" * 40000, (40000,)
    world.take(text, ends).release(ended(0, 10000, evaluating=10.0))
    busy = world.take(text, ends)
    world.clock.now += 0.9
    entries = [world.scheduler.enter(slot_request(f"{text} {n}", (40000, 40002))) for n in range(2)]
    assert isinstance(entries[0], Ticket) and isinstance(entries[1], Lease)
    assert entries[1].slot is not busy.slot
    with pytest.raises(QueueFull):
        world.scheduler.enter(slot_request("no slot is left"))


def test_waiting_ends_on_timeout_or_cancel() -> None:
    world = World(slots=1, queue_timeout=10.0)
    world.take("a")
    ticket = world.waits("b")
    cancel = Cancel()
    cancel.cancel()
    with pytest.raises(Cancelled):
        ticket.wait(cancel)
    late = world.waits("c")
    assert late.wait(Cancel(), 0.0) is None
    world.clock.now += 11
    with pytest.raises(QueueTimeout):
        late.wait(Cancel())
    assert world.scheduler.waiting == 0


def test_request_fails_at_once_when_no_backend_is_up() -> None:
    world = World(slots=1)
    world.take("a")
    ticket = world.waits("b")
    world.scheduler.mark("b0", up=False)
    with pytest.raises(NoBackend):
        ticket.wait(Cancel())
    with pytest.raises(NoBackend):
        world.take("c")


def test_requests_wait_for_backend_to_come_back() -> None:
    world = World(slots=1, wait_for_backend=10.0)
    asked: list[str] = []
    world.scheduler.on_stranded = asked.append
    world.scheduler.mark("b0", up=False)
    first, second = world.waits("a"), world.waits("b")
    assert first.wait(Cancel(), 0.0) is None
    assert asked == ["m", "m"]
    assert first.no_backend_since == second.no_backend_since == world.clock.now
    world.clock.now += 9
    world.scheduler.mark("b0", up=True)
    assert granted(first).backend == "b0"
    assert second.no_backend_since is None
    world.clock.now += 5  # now it waits for a slot
    assert second.wait(Cancel(), 0.0) is None
    world.scheduler.mark("b0", up=False)
    world.clock.now += 9
    assert second.wait(Cancel(), 0.0) is None
    world.clock.now += 1
    with pytest.raises(NoBackend):
        second.wait(Cancel())
    assert world.scheduler.waiting == 0
    assert len(asked) == 3


def test_request_does_not_wait_for_excluded_backend() -> None:
    world = World(slots=1, wait_for_backend=10.0)
    with pytest.raises(NoBackend):
        world.take("a", exclude=frozenset({"b0"}))


def test_queue_timeout_counts_from_first_wait_of_the_request() -> None:
    world = World(slots=1, queue_timeout=10.0)
    before = world.clock.now
    world.clock.now += 6
    held = world.take("a")
    ticket = world.waits("b", since=before, is_retry=True)
    world.clock.now += 4
    with pytest.raises(QueueTimeout):
        ticket.wait(Cancel())
    held.release()
    with pytest.raises(QueueTimeout):  # also when a slot is free
        world.take("b", since=before)


# health


def test_backend_that_keeps_failing_gets_one_trial_request() -> None:
    world = World(slots=4, backends=2)
    for _ in range(3):
        lease = world.take("x", exclude=frozenset({"b1"}))
        lease.release(Outcome(end="failed"))
    assert {world.take(f"{n}" * 9).backend for n in range(3)} == {"b1"}
    world.clock.now += 2
    trial = world.take("y", exclude=frozenset({"b1"}))
    ticket = world.waits("z", exclude=frozenset({"b1"}))
    trial.release(ended(0, 10))
    assert ticket.wait(Cancel()) is not None


def test_drained_backend_finishes_leases_and_gets_no_new_ones() -> None:
    world = World(slots=2, backends=2)
    lease = world.take("x", exclude=frozenset({"b1"}))
    world.scheduler.drain("b0")
    assert world.take("y").backend == "b1"
    assert world.scheduler.in_flight("b0") == 1
    lease.release(ended(0, 10))
    assert world.scheduler.slots("b0") == 0


# files


def test_valuable_slots_are_saved_and_restored_within_disk_budget() -> None:
    world = World(slots=1, disk=1_000_000)
    world.scheduler.update("b0", BackendFacts(model="m", slots=1, cache_kind="files"), up=True)
    files: dict[str, int] = {}

    def play(lease: Lease) -> list[str]:
        done: list[str] = []
        for step in lease.steps():
            done.append(step.action)
            if step.action == "save":
                files[step.file] = 100_000
            lease.step_done(step, 150, 100_000, 0.001)
        tokens = lease.request.chain.size // 4
        world.clock.now += 1
        lease.release(ended(0, tokens, min(tokens, lease.grant.cached)))
        return done

    assert play(world.take(*_conversation("a", 1))) == []
    assert play(world.take(*_conversation("b", 1))) == ["save"]
    back = world.take(*_conversation("a", 2))
    assert back.grant.cached > 100
    assert play(back) == ["save", "restore"]
    for number in range(30):
        play(world.take(*_conversation(f"c{number}", 1)))
    pool = world.scheduler.pools["m"]
    backend = pool.backends["b0"]
    assert sum(held.size for held in pool.kept(backend)) <= 1_000_000
    assert all(name.startswith("slotproxy-") and "/" not in name for name in files)


def test_slot_with_empty_prompt_is_not_saved() -> None:
    world = World(slots=1, disk=1_000_000)
    world.scheduler.update("b0", BackendFacts(model="m", slots=1, cache_kind="files"), up=True)
    lease = world.take("", (0,))
    lease.release(ended(0, 1, completion=500))
    after = world.take(*_conversation("a", 1))
    assert after.grant.save and after.steps() == ()
    after.release()


# leases


def test_backend_model_change_during_lease_loses_no_slot() -> None:
    """The host restarted with another model: the old stream hangs until its timeout."""
    world = World(slots=2)
    hanging = world.take("a")
    world.scheduler.update("b0", BackendFacts(model="other", slots=2), up=True)
    hanging.on_first_token(1)
    hanging.release(Outcome(end="failed", slot=1))
    wanted = msgspec.structs.replace(slot_request("b"), model="other")
    leases = [world.scheduler.enter(wanted) for _ in range(2)]
    assert all(isinstance(lease, Lease) for lease in leases)
    assert world.scheduler.in_flight("b0") == 2


def test_replaced_backend_starts_with_free_slots() -> None:
    world = World(slots=1)
    hanging = world.take("a")
    waiting = world.waits("b")
    world.scheduler.update("b0", BackendFacts(model="m", slots=1), up=None, replaces=True)
    assert waiting.wait(Cancel(), 0.0) is None  # waits for the probe of the new server
    world.scheduler.update("b0", BackendFacts(model="m", slots=1), up=True)
    lease = granted(waiting)
    for end in ("busy", "whole"):
        hanging.on_first_token(0)
        hanging.release(Outcome(end=end, slot=0, prompt=10, cached=0, completion=4, evaluating=0.1))
        lease.release(ended(0, 10))
    assert isinstance(world.scheduler.enter(slot_request("a")), Lease)
    assert isinstance(world.scheduler.enter(slot_request("b")), Ticket)


def test_answer_that_came_whole_tells_its_length_and_no_pace() -> None:
    world = World()
    backend = world.scheduler.backends["b0"]
    pool, pace = backend.pool, backend.pace
    answer = pool.answer
    lease = world.take("a")
    lease.release(ended(lease.slot.id, 10, completion=2000))
    assert pool.answer > answer and backend.pace == pace
    assert not backend.evaluating


@pytest.mark.parametrize("number", [10**40, -(10**40), 1 << 63])
def test_extreme_numbers_from_backend_keep_records_consistent(number: int) -> None:
    world = World(slots=0)
    lease = world.take("a")
    lease.on_first_token(number)
    lease.release(ended(number, number, number, completion=number, evaluating=float("inf")))
    assert len(world.scheduler.view("", "").backends[0].slots) <= 4
    is_retry = world.take("a")
    is_retry.release(
        Outcome(end="cut", slot=-1, prompt=10, cached=number, completion=1, evaluating=float("nan"))
    )
    world.scheduler.update("b0", BackendFacts(model="m", slots=10**9), up=True)
    assert len(world.scheduler.view("", "").backends[0].slots) == MOST_SLOTS
    msgspec.msgpack.encode(
        Outcome(end="whole", slot=number, prompt=number, cached=number, completion=number)
    )


# adapters


def _with_adapters(slots: int = 1, **facts: object) -> World:
    world = World(slots=slots)
    with_adapters = BackendFacts(model="m", slots=slots, adapters=True)
    world.scheduler.update("b0", msgspec.structs.replace(with_adapters, **facts), up=True)
    return world


POET, PIRATE = "\0poet", "\0pirate"


def test_conversations_return_to_the_slot_that_has_them_with_their_adapter() -> None:
    world = _with_adapters(slots=2)
    begun = {group: world.turn(*_conversation("s", 1), group=group) for group in (POET, PIRATE)}
    for group, first in begun.items():
        again = world.turn(*_conversation("s", 2), group=group)
        assert again.slot is first.slot and again.grant.cached > 0 and not again.grant.fresh


@pytest.mark.parametrize("mixes", [True, False])
def test_ram_that_mixes_adapters_is_not_used(mixes: bool) -> None:
    """A server finds prompts there by their tokens. One whose requests never choose an adapter
    keeps its cache."""
    world = _with_adapters(pins=False, cache_kind="ram", mixes=mixes)
    fresh = [world.turn(*_conversation("s", n)).grant.fresh for n in (1, 2)]
    assert fresh == [mixes] * 2
    groups = (POET, POET, "")
    assert [world.turn(*_conversation("s", 3), group=g).grant.fresh for g in groups] == [True] * 3
    again = BackendFacts(model="m", slots=1, pins=False, cache_kind="ram", adapters=True)
    world.scheduler.update("b0", again, up=True)  # the server may be the same
    assert world.turn(*_conversation("s", 4)).grant.fresh


def test_prompts_of_adapters_are_not_saved() -> None:
    world = _with_adapters(slots=2, cache_kind="files", keeps_files=True)
    saved = world.scheduler.saved_slots = msgspec.structs.replace(
        world.scheduler.saved_slots, budget=10**9
    )
    for group in ("", POET):
        world.turn(*_conversation(f"long {group}", 40), group=group)
    assert len(saved.to_save("b0")) == 1


PRELOADED = """
from proxy.scheduling.lease import Ticket
from proxy.scheduling.state import ConversationRecord, SlotRequest
from gevent import monkey
monkey.patch_all()
import gevent
ticket = Ticket(None, SlotRequest(model="m"), ConversationRecord(), 0.0)
others = []
gevent.spawn(others.append, "ran")
ticket.event.set()
print(others)
"""


def test_waking_a_request_lets_no_other_run_even_if_a_server_preloads_the_modules() -> None:
    """It is done under a native lock, which all greenlets of a thread could enter."""
    command = [sys.executable, "-c", PRELOADED]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
