"""Why a prompt was evaluated: each cause, staged on the scheduler, and any order of requests
against the scheduler's own records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.usage import Usage
from proxy.gateway import Info
from proxy.observe.cold import Earlier, Reason, Window, checksums, explain
from proxy.observe.ring import _became, _decision, sentences
from proxy.scheduling import outcomes
from proxy.scheduling.lease import Lease, Outcome
from proxy.scheduling.prefix import chain_of
from proxy.scheduling.scheduler import LocalScheduler
from proxy.scheduling.state import BackendFacts, CachedPrompt
from proxy.web.disconnect import nothing
from tests.unit.scheduling.fakes import World, ended

TURN = 400  # characters of a message


def talk(name: str, turns: int) -> tuple[str, tuple[int, ...]]:
    """The prompt of a turn of this conversation, and where its messages end."""
    text, ends = "", []
    for turn in range(turns):
        text += f"{name}{turn:03} ".ljust(TURN, "x")
        ends.append(len(text))
    return text, tuple(ends)


def reason(lease: Lease, cached: int = 0, earlier: Sequence[Earlier] = (), **info: Any) -> Reason:
    assert lease.placement is not None
    usage = Usage(lease.grant.prompt, 4, cached)
    told = explain(lease.placement, Info(usage=usage, **info), earlier)
    assert "{" not in sentences()[told.cause].format_map(told.values)
    return told


@pytest.mark.parametrize(
    ("key", "background", "cause"),
    [
        ("bob", False, "evicted_key"),
        ("ann", False, "evicted_own"),
        ("ann", True, "evicted_side_job"),
    ],
)
def test_slot_that_another_conversation_took(key: str, background: bool, cause: str) -> None:
    world = World(slots=1)
    world.turn(*talk("a", 1), key="ann")
    world.turn(*talk("b", 1), key=key, background=background)
    world.clock.now += 6
    told = reason(world.take(*talk("a", 2), key="ann"))
    assert told.cause == cause
    assert (told.values["slot"], told.values["seconds"]) == (0, 7)
    sentence = sentences()[cause].format_map(told.values)
    assert "slot 0 of b0" in sentence and "7s before" in sentence


def test_backend_with_another_model_in_between() -> None:
    world = World(slots=2, backends=2)
    world.turn(*talk("a", 1))
    for model in ("other", "m"):
        for name in ("b0", "b1"):
            world.scheduler.update(name, BackendFacts(model=model, slots=2), up=True)
    assert reason(world.take(*talk("a", 2))).cause == "swapped"


def test_model_that_was_not_loaded() -> None:
    world = World(slots=1)
    world.scheduler.mark("b0", True, load_delay=3.0)
    assert reason(world.take(*talk("a", 1))).cause == "loads"


def test_other_backend_because_its_own_is_down() -> None:
    world = World(slots=1, backends=2)
    first = world.turn(*talk("a", 1)).backend
    world.scheduler.mark(first, False)
    told = reason(world.take(*talk("a", 2)))
    assert told.cause == "elsewhere" and told.values["kept"] == first


def test_slot_that_is_still_in_use() -> None:
    world = World(slots=2)
    world.take(*talk("a", 1))
    assert reason(world.take(*talk("a", 2))).cause == "busy"


def test_slot_that_an_old_server_has_not_freed_yet() -> None:
    world = World(slots=2)
    world.scheduler.update("b0", BackendFacts(model="m", slots=2, release_delay=9), up=True)
    world.turn(*talk("a", 1))
    assert reason(world.take(*talk("a", 2))).cause == "busy"


def test_slots_that_the_server_does_not_have() -> None:
    world = World(slots=3)
    where = {name: world.turn(*talk(name, 1)).slot.id for name in "abc"}
    pool, backend = world.scheduler.pools["m"], world.scheduler.backends["b0"]
    outcomes.resize(pool, backend, 1)
    (gone,) = (name for name in "ab" if where[name] == 1)
    told = reason(world.take(*talk(gone, 2)))
    assert told.cause == "resized" and told.values["slots"] == 1


@pytest.mark.parametrize("kept", [1, 3])
def test_part_of_the_conversation_that_was_changed(kept: int) -> None:
    """The scheduler knows the conversation by the turns before the change, if it has had any."""
    world = World(slots=2)
    text, ends = talk("a", 5)
    earlier: list[Earlier] = []
    for turn in (1, 4) if kept == 1 else (3, 4):
        earlier.insert(0, Earlier(world.turn(*talk("a", turn)).request.chain, ""))
    begin = kept * TURN
    edited = text[:begin] + "other, and longer " + text[begin + 6 :]
    lease = world.take(edited, (*ends[:kept], *(end + 12 for end in ends[kept:])), session="s")
    told = reason(lease, cached=90, earlier=earlier)
    assert told.cause == "changed" and told.values["begin"] == begin
    assert f"up to character {begin}" in sentences()["changed"].format_map(told.values)


def test_server_that_did_not_reuse_what_it_has() -> None:
    world = World(slots=1)
    world.turn(*talk("a", 4))
    assert reason(world.take(*talk("a", 5)), cached=0).cause == "server"


@pytest.mark.parametrize(
    ("seen", "cause"), [({"uncached": True}, "off"), ({"compacted": 4}, "context")]
)
def test_what_the_request_itself_says(seen: Any, cause: str) -> None:
    world = World(slots=1)
    world.turn(*talk("a", 1))
    assert reason(world.take(*talk("a", 2)), **seen).cause == cause


def test_cache_of_another_group_is_not_reused() -> None:
    world = World(slots=1, groups=True)
    assert reason(world.turn(*talk("a", 1), group="ann")).cause == "new"
    assert reason(world.take(*talk("b", 1), group="bob")).cause == "fresh"


def test_side_job() -> None:
    assert reason(World().take(*talk("a", 1), background=True)).cause == "side_job"


def test_time_at_the_beginning_of_the_prompt() -> None:
    text, ends = talk("a", 3)
    at = [f"It is {hour}:00. " + text for hour in (10, 11)]
    ends = tuple(end + len(at[0]) - len(text) for end in ends)
    earlier = Earlier(chain_of(at[0][: ends[1]], ends[:2]), "t")
    lease = World().take(at[1], ends)
    told = reason(lease, earlier=[earlier], template="t")
    assert told.cause == "head"
    assert told.values["begin"] == 0 and 6 < int(told.values["end"]) <= ends[0]
    assert reason(lease, earlier=[earlier], template="other").cause == "template"


def test_clock_of_a_prompt_that_was_placed_while_redis_was_away() -> None:
    """Then it has no chain."""
    grant = World().take("", ()).placement
    assert grant is not None and not grant.request.chain.size
    window = Window(32, 16, "It is 10:00.", end=96)
    assert explain(grant, Info(usage=Usage(300, 4)), find=lambda: window).cause == "new"


def test_another_conversation_is_no_change() -> None:
    """It begins differently, and is not longer; or it begins like the other and is new."""
    (text, ends), (other, others) = talk("a", 3), talk("b", 3)
    for before in (Earlier(chain_of(other, others), ""), Earlier(chain_of(text, ends), "")):
        lease = World().take(text + "!", ends)
        assert reason(lease, earlier=[before]).cause == "unmatched"


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("edit", ["edit", "longer edit"])
def test_edited_message_of_a_prompt_that_matched_nothing(place: int, edit: str) -> None:
    """Without a session, and before the half of the earlier prompt."""
    text, ends = talk("a", 6)
    earlier = Earlier(chain_of(text[: ends[4]], ends[:5]), "")
    begin, more = place * TURN + 6, len(edit)
    edited = text[:begin] + edit + text[begin:]
    lease = World().take(edited, (*ends[:place], *(end + more for end in ends[place:])))
    told = reason(lease, earlier=[earlier])
    assert told.cause == ("changed" if place else "head")
    assert told.values["begin"] == place * TURN


def test_difference_is_said_before_the_slot_of_another_group() -> None:
    world = World(slots=1, groups=True)
    world.turn(*talk("b", 1), group="bob")
    text, ends = talk("a", 5)
    earlier = Earlier(chain_of(text[: ends[2]], ends[:3]), "")
    lease = world.take("z" + text[1:], ends, group="ann")
    assert lease.placement is not None and lease.placement.fresh
    assert reason(lease, earlier=[earlier]).cause == "head"


def test_next_turn_takes_over_the_checksums_of_the_same_beginning() -> None:
    def of(text: str, ends: tuple[int, ...], *before: Earlier) -> Earlier:
        chain = chain_of(text, ends)
        return Earlier(chain, "", checksums(text, chain.links, before))

    last, other = of(*talk("a", 300)), of(*talk("b", 300))
    text, ends = talk("a", 302)
    assert of(text, ends, other, last).sums is last.sums
    for at in (0, 1000):
        changed = f"{text[:at]}!{text[at + 1 :]}"
        sums = of(changed, ends, other, last).sums
        assert sums == checksums(changed) != last.sums


def test_loss_within_the_same_second_has_its_time() -> None:
    world = World(slots=1)
    world.turn(*talk("a", 1))
    world.turn(*talk("b", 1))
    lease = world.take(*talk("a", 2))
    placed = lease.placement
    assert placed is not None and placed.loss is not None
    for passed, text in ((0.11, "110ms"), (0.0, "1ms"), (1.4, "1s")):
        lease.placement = msgspec.structs.replace(placed, at=placed.loss.at + passed)
        told = reason(lease)
        assert f", {text} before" in sentences()[told.cause].format_map(told.values)


def test_slot_that_the_server_chose() -> None:
    world = World(slots=2)
    world.turn(*talk("a", 1))
    lease = world.take(*talk("a", 2))
    assert lease.placement is not None and lease.placement.continues
    guessed = msgspec.structs.replace(lease.placement, pinned=False)

    def decided(slot: int, cached: int = 0, **placed: Any) -> Any:
        placement = msgspec.structs.replace(guessed, **placed)
        info = Info(placement=placement, slot=slot, usage=Usage(9, 1, cached))
        return _decision(info, (), nothing)

    assert (decided(-1)["slot"], decided(1 - guessed.slot)["slot"]) == (None, 1 - guessed.slot)
    assert _became(decided(guessed.slot)) == "continued"
    assert _became(decided(1 - guessed.slot, cached=5)) == "unknown"
    # It continues what was restored from a file, where another conversation was.
    assert _became(decided(guessed.slot, replaced=7, saves=True)) == "saved"


class Step(NamedTuple):
    """The next turn of a conversation, or a backend that restarts."""

    name: str
    key: str
    dice: int

    @property
    def restarts(self) -> bool:
        return self.dice == 0

    @property
    def is_sent(self) -> bool:
        return self.dice > 1


KEYS = ("ann", "bob")
STEPS = st.lists(
    st.builds(Step, st.sampled_from("abcdef"), st.sampled_from(KEYS), st.integers(0, 9)),
    min_size=4,
    max_size=40,
)


@given(steps=STEPS, slots=st.integers(1, 3), backends=st.integers(1, 2))
def test_sentence_agrees_with_the_records_of_the_scheduler(
    steps: Sequence[Step], slots: int, backends: int
) -> None:
    world = World(slots=slots, backends=backends)
    turns: dict[str, int] = {}
    lost: dict[str, tuple[str, str, int]] = {}  # by conversation: the last loss of its prompt
    begun: set[str] = set()  # those whose prompt was in a slot
    for step in steps:
        world.clock.now += 5
        before = dict(_held(world.scheduler))
        if step.restarts:
            world.scheduler.update("b0", BackendFacts(model="m", slots=slots), up=True)
            at_b0 = [name for name, held in before.items() if held.backend.name == "b0"]
            lost |= dict.fromkeys(at_b0, ("restarted", "b0", -1))
            continue
        name = f"{step.name}{step.key}"
        turns[name] = turns.get(name, 0) + 1
        lease = world.take(*talk(name, turns[name]), key=step.key)
        cached = lease.grant.cached
        told = reason(lease, cached)
        held = before.get(name)
        if held is not None and held.slot is lease.slot:
            assert told.cause == "warm"
        elif held is not None:
            assert (told.cause, told.values["kept"]) == ("elsewhere", held.backend.name)
        elif name not in begun:
            assert told.cause in (
                "new",
                "unmatched",
                "unknown",
            )  # it is unknown if it was placed before
        else:
            by, backend, slot = lost[name]
            if by in KEYS:
                by = "evicted_own" if by == step.key else "evicted_key"
            assert (told.cause, told.values["backend"]) == (by, backend)
            assert told.values["slot"] == slot
        world.clock.now += 1
        slot = lease.slot.id
        whole = ended(slot, lease.grant.prompt, cached)
        lease.release(whole if step.is_sent else Outcome(end="unused"))
        after = dict(_held(world.scheduler))
        lost |= dict.fromkeys(before.keys() - after.keys(), (step.key, lease.backend, slot))
        begun |= after.keys()


def _held(scheduler: LocalScheduler) -> Iterator[tuple[str, CachedPrompt]]:
    """The conversations whose prompts are cached, by the scheduler's records."""
    for held in (s.held for b in scheduler.backends.values() for s in b.slots if s.held):
        for name in NAMES:
            if held.chain.links[0] == FIRST[name]:
                yield name, held


NAMES = [f"{name}{key}" for name in "abcdef" for key in KEYS]
FIRST = {name: chain_of(*talk(name, 1)).links[0] for name in NAMES}
