"""Requests that need a whole backend: embeddings on a server of 2023."""

from __future__ import annotations

from proxy.runtime.cancel import Cancel
from proxy.scheduling.lease import Outcome, Ticket
from proxy.scheduling.state import BackendFacts, SlotRequest
from tests.unit.scheduling.fakes import World, ended, granted


def whole(**fields: object) -> SlotRequest:
    return SlotRequest(model="m", max_tokens=16, background=True, whole_backend=True, **fields)  # type: ignore[arg-type]


def states(world: World) -> list[str]:
    return [slot.state for one in world.scheduler.view("", "").backends for slot in one.slots]


def test_whole_backend_is_granted_when_idle() -> None:
    world = World(slots=3)
    lease = world.scheduler.acquire(whole(), Cancel())
    assert states(world) == ["busy"] * 3
    assert world.scheduler.in_flight("b0") == 1
    chat = world.waits("chat")
    assert chat.wait(Cancel(), 0.0) is None
    lease.release(Outcome(end="whole"))
    granted(chat).release()
    assert states(world) == ["free"] * 3


def test_steady_chats_do_not_starve_an_embedding() -> None:
    world = World(slots=2)
    answers = [world.take("chat 0"), world.take("chat 1")]
    ticket = world.waits(whole())
    later: list[Ticket] = []
    for number in range(2):
        later.append(world.waits(f"later chat {number}"))
        answers.pop(0).release(ended(-1, 10))
        assert [one.wait(Cancel(), 0.0) for one in later] == [None] * len(later)
    lease = granted(ticket)
    lease.release(Outcome(end="whole"))
    for one in later:
        granted(one).release()


def test_steady_embeddings_do_not_starve_a_chat() -> None:
    world = World(slots=2)
    for key in ("", "another"):
        lease = world.scheduler.acquire(whole(key=key), Cancel())
        chat = world.waits("chat")
        # Several requests, each of which returns for its next texts.
        embeddings = [world.waits(whole(key=key)) for _ in range(4)]
        for _ in range(3):
            if chat.lease is not None:
                break
            lease.release(Outcome(end="whole"))
            if chat.lease is None:
                lease = granted(embeddings.pop(0))
                embeddings.append(world.waits(whole(key=key)))
        answer = granted(chat)
        assert not any(one.lease for one in embeddings)
        answer.release()
        for one in embeddings:
            granted(one).release()


def test_waiting_embeddings_reserve_only_one_backend() -> None:
    world = World(slots=1, backends=3)
    answers = {(lease := world.take(f"chat {n}")).backend: lease for n in range(3)}
    first, second = world.waits(whole()), world.waits(whole())
    chats = [world.waits(f"more {n}") for n in range(2)]
    # Both wait for the first backend that becomes free; the other two keep serving chats.
    answers["b1"].release()
    lease = granted(first)
    assert lease.backend == "b1"
    answers["b2"].release()
    answers["b0"].release()
    found = [one.wait(Cancel(), 0.0) for one in (second, *chats)]
    assert sum(one is not None for one in found) == 2
    lease.release(Outcome(end="whole"))
    for one in found:
        if one is not None:
            one.release()
    for ticket in (second, *chats):
        ticket.leave()
    assert world.scheduler.outstanding == 0


def test_embedding_clears_cached_prompts() -> None:
    world = World(slots=2)
    world.turn("a conversation " * 40)
    world.scheduler.acquire(whole(), Cancel()).release(Outcome(end="whole", erased=True))
    assert world.take("a conversation " * 40).grant.cached == 0


def test_unused_whole_backend_lease_keeps_cached_prompts() -> None:
    world = World(slots=2)
    world.turn("a conversation " * 40)
    world.scheduler.acquire(whole(), Cancel()).release(Outcome(end="unused"))
    assert world.take("a conversation " * 40).grant.cached > 0


def test_whole_backend_lease_survives_drain_and_replacement() -> None:
    world = World(slots=2, backends=2)
    leases = [world.scheduler.acquire(whole(), Cancel()) for _ in range(2)]
    world.scheduler.drain("b0")
    world.scheduler.update("b1", BackendFacts(model="m", slots=2), up=True, replaces=True)
    chats = [world.take("one"), world.take("two")]
    assert [chat.backend for chat in chats] == ["b1", "b1"]
    for lease in (*leases, *chats):
        lease.release(Outcome(end="whole"))
    assert world.scheduler.outstanding == 0
    assert [(one.backend, len(one.slots)) for one in world.scheduler.view("", "").backends] == [
        ("b1", 2)
    ]
    assert states(world) == ["free", "free"]


def test_whole_backend_is_granted_while_slot_count_is_guessed() -> None:
    world = World(slots=0)
    answers = [world.take(f"chat {n}") for n in range(4)]
    ticket = world.waits(whole())
    world.clock.now += (
        30  # a further slot could be tried, but not for requests behind the embedding
    )
    chat = world.waits("chat")
    for answer in answers:
        answer.release()
    assert chat.lease is None
    granted(ticket).release(Outcome(end="whole"))
    granted(chat).release()
