"""Prompts in files that outlive their server, and the process that saved them."""

from __future__ import annotations

import msgspec
import pytest

from proxy.scheduling.lease import Lease, Outcome, Ticket
from proxy.scheduling.prefix import Chain
from proxy.scheduling.saved_slots import SavedPrompt
from proxy.scheduling.state import BackendFacts

from .fakes import World, ended, slot_request

LONG = "a question " * 100  # 275 tokens of four characters
OTHER = "something else " * 100


def world(cache: str = "files", slots: int = 2, **options: object) -> World:
    made = World(slots=slots, **{"disk": 10_000_000, **options})  # type: ignore[arg-type]
    restart(made, cache, slots)
    return made


def restart(made: World, cache: str = "files", slots: int = 2, keeps: bool = True) -> None:
    facts = BackendFacts(
        model="m",
        slots=slots,
        pins=cache != "ram",
        cache_kind=cache,  # type: ignore[arg-type]
        keeps_files=keeps,
    )
    made.scheduler.update("b0", facts, up=True, anew=True)


def save_all(made: World, size: int = 1000, seconds: float = 0.01) -> list[str]:
    """Save what is worth it. Returns the files that are left."""
    saved = made.scheduler.saved_slots
    for save in saved.to_save("b0"):
        if saved.make_room("b0", save) is not None:
            saved.saved("b0", save, save.tokens, size, seconds)
    return [prompt.file for prompt in saved.prompts("b0")]


def turns(prompt: str) -> tuple[int, ...]:
    """Where its turns end: LONG is the first."""
    return (len(LONG), len(prompt)) if prompt.startswith(LONG) else (len(prompt),)


def restored(made: World, prompt: str, cached: int = -1, **fields: object) -> Lease:
    """A turn whose slot is prepared as its grant says; `cached` -1: as much as it expects."""
    lease = made.take(prompt, turns(prompt), **fields)
    for step in lease.steps():
        lease.step_done(step, 275, 1000, 0.01)
    tokens = len(prompt) // 4
    expected = min(tokens, lease.grant.cached)
    lease.release(ended(lease.slot.id, tokens, expected if cached < 0 else cached, evaluating=0.0))
    return lease


def test_slots_worth_a_file_are_those_used_last_first() -> None:
    made = world(slots=5)
    made.turn(LONG)
    made.turn("short")
    made.turn("### " + OTHER, background=True)
    made.turn(OTHER)
    made.take("busy " + LONG)
    saves = made.scheduler.saved_slots.to_save("b0")
    assert [save.tokens for save in saves] == [len(OTHER) // 4 + 4, len(LONG) // 4 + 4]
    assert len({save.file for save in saves}) == 2


def test_nothing_is_saved_without_a_budget_or_for_an_unknown_backend() -> None:
    made = world(disk=0)
    made.turn(LONG)
    assert made.scheduler.saved_slots.to_save("b0") == ()
    assert made.scheduler.saved_slots.to_save("nobody") == ()


@pytest.mark.parametrize("cache", ["files", "ram"])
def test_conversation_is_restored_to_a_slot_after_its_server_came_back(cache: str) -> None:
    made = world(cache)
    made.turn(LONG)
    (file,) = save_all(made)
    restart(made, cache)
    lease = restored(made, LONG + "and then?")
    assert lease.grant.restore is not None
    assert (lease.grant.restore.file, lease.pinned) == (file, lease.slot.id)
    assert lease.grant.cached >= len(LONG) // 4
    is_retry = made.take(LONG + "and then? and now?", turns(LONG + "and then?"))  # from its slot
    assert is_retry.grant.restore is None
    assert is_retry.grant.cached > len(LONG) // 4


def test_waiting_request_gets_no_slot_of_a_server_that_is_about_to_end() -> None:
    made = world(slots=1)
    first = made.take(LONG)
    ticket = made.scheduler.enter(slot_request(LONG + "and then?", turns(LONG + "x")))
    assert isinstance(ticket, Ticket)
    made.scheduler.saved_slots.leave("b0")
    first.release(Outcome(end="whole", slot=0, prompt=275, completion=4))
    assert ticket.lease is None
    assert len(save_all(made)) == 1  # so its content is saved, and restored for that request
    restart(made, slots=1)
    assert ticket.lease is not None
    assert ticket.lease.grant.restore is not None


@pytest.mark.parametrize("keeps", [True, False])
def test_files_are_forgotten_where_they_do_not_outlive_their_server(keeps: bool) -> None:
    made = world()
    made.turn(LONG)
    assert save_all(made)
    if keeps:
        made.scheduler.drain("b0")
    restart(made, keeps=keeps)
    assert made.scheduler.saved_slots.prompts("b0") == ()


def test_another_process_adopts_the_files() -> None:
    made, other = world(), world()
    made.turn(LONG)
    save_all(made)
    prompts = made.scheduler.saved_slots.prompts("b0")
    kept = [msgspec.msgpack.decode(msgspec.msgpack.encode(p), type=SavedPrompt) for p in prompts]
    other.scheduler.saved_slots.adopt("b0", kept, 0)
    restart(other)
    lease = restored(other, LONG + "and then?")
    assert lease.grant.restore is not None
    assert lease.grant.restore.file == prompts[0].file
    assert save_all(other) == [prompts[0].file]  # the conversation keeps its file


def test_files_of_a_group_are_never_restored_for_another() -> None:
    made = world(groups=True)
    made.turn(LONG, group="alice")
    save_all(made)
    restart(made)
    bob = restored(made, LONG + "and then?", group="bob")
    assert (bob.grant.restore, bob.grant.cached) == (None, 0)
    alice = restored(made, LONG + "and then?", group="alice")
    assert alice.grant.restore is not None
    # What was restored is not reused by another group either.
    made.take("x" * 100, group="carol")
    assert made.take(LONG + "and then?", group="bob").grant.fresh


def test_after_a_failed_restore_the_slot_counts_as_unknown() -> None:
    made = world(groups=True)
    made.turn(LONG, group="alice")
    save_all(made)
    restart(made)
    lease = made.take(LONG + "and then?", turns(LONG + "and then?"), group="alice")
    (step,) = lease.steps()
    lease.step_done(step, 0, 0, 0.01)
    assert (lease.grant.fresh, lease.grant.reuse, lease.grant.restore) == (True, None, None)
    lease.release(Outcome(end="whole", slot=lease.slot.id, prompt=275, completion=4))
    assert made.scheduler.saved_slots.prompts("b0") == ()
    assert made.scheduler.saved_slots.vain("b0") == 0  # that says nothing about the model


def test_files_beyond_the_budget_are_forgotten() -> None:
    made = world(slots=3, disk=2500)
    for prompt in (LONG, OTHER, "third " + LONG):
        made.turn(prompt)
        made.clock.now += 60
    files = save_all(made)
    assert len(files) == 2
    saved = made.scheduler.saved_slots
    assert {prompt.tokens for prompt in saved.prompts("b0")} == {379, 280}  # those used last


def test_prompt_larger_than_the_budget_is_not_saved() -> None:
    made = world(slots=2, disk=2500)
    made.turn(LONG)
    assert len(save_all(made, 2000)) == 1
    made.turn(OTHER * 4)
    (save,) = made.scheduler.saved_slots.to_save("b0")
    assert made.scheduler.saved_slots.make_room("b0", save) is None


def test_file_that_turns_out_larger_than_the_budget_is_removed() -> None:
    made = world(disk=2500)
    made.turn(LONG)
    saved = made.scheduler.saved_slots
    (save,) = saved.to_save("b0")
    assert saved.saved("b0", save, save.tokens, 3000, 0.01) == (save.file,)
    assert saved.prompts("b0") == ()


def test_two_restores_in_vain_end_saving() -> None:
    made = world(slots=1)
    saved = made.scheduler.saved_slots
    text = LONG
    for times in (1, 2):
        made.turn(text)
        assert save_all(made)
        restart(made, slots=1)
        text += "and then? "
        assert restored(made, text, cached=0).grant.restore is not None
        assert saved.vain("b0") == times
    assert saved.to_save("b0") == ()
    made.turn(OTHER)
    assert not made.take(LONG).grant.save  # nor while the server runs


def test_little_in_common_with_the_file_of_another_conversation_proves_nothing() -> None:
    made = world(slots=1)
    made.turn(LONG, (600, len(LONG)))
    (file,) = save_all(made)
    for number in range(2):
        restart(made, slots=1)
        lease = made.take(LONG[:600] + f"other {number}" * 20, (600,))
        assert lease.grant.restore is not None
        for step in lease.steps():
            lease.step_done(step, 275, 1000, 0.01)
        lease.release(Outcome(end="whole", slot=0, prompt=200, cached=9, completion=4))
    assert made.scheduler.saved_slots.vain("b0") == 0
    assert file in [prompt.file for prompt in made.scheduler.saved_slots.prompts("b0")]


def test_restore_that_pays_starts_the_count_anew() -> None:
    made = world(slots=1)
    made.scheduler.saved_slots.adopt("b0", (), 1)
    made.turn(LONG)
    save_all(made)
    restart(made, slots=1)
    restored(made, LONG + "and then?")
    assert made.scheduler.saved_slots.vain("b0") == 0


def test_file_is_not_restored_for_a_few_tokens_of_it() -> None:
    made = world(slots=1)
    made.turn(LONG * 20, (200, len(LONG) * 20))
    save_all(made, seconds=0.5)
    restart(made, slots=1)
    assert restored(made, LONG * 20 + "x").grant.restore is not None
    restart(made, slots=1)
    assert made.take((LONG * 20)[:200] + OTHER, (200,)).grant.restore is None


def test_slot_that_was_taken_meanwhile_is_not_recorded() -> None:
    made = world(slots=1)
    made.turn(LONG)
    saved = made.scheduler.saved_slots
    (save,) = saved.to_save("b0")
    made.take(OTHER)
    assert saved.saved("b0", save, save.tokens, 1000, 0.01) == (save.file,)


@pytest.mark.parametrize(
    "wrong",
    [{"chain": Chain(turn=1)}, {"size": 0}, {"tokens": 0}, {"silence": -1.0}],
)
def test_broken_record_is_refused(wrong: dict[str, object]) -> None:
    made = world()
    made.turn(LONG, (len(LONG),))
    save_all(made)
    (prompt,) = made.scheduler.saved_slots.prompts("b0")
    with pytest.raises(ValueError, match="broken"):
        msgspec.structs.replace(prompt, **wrong)
