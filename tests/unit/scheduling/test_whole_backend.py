"""A request that needs a backend to itself: embeddings of a server of 2023."""

from __future__ import annotations

from proxy.cancel import Cancel
from proxy.core.task import Task
from proxy.scheduling.lease import Lease, Outcome
from proxy.scheduling.state import Want
from proxy.scheduling.ticket import Ticket
from tests.unit.scheduling.fakes import World, want


def whole(**fields: object) -> Want:
    task = Task(prompt="", max_tokens=16)
    return Want("m", task, aside=True, whole_backend=True, **fields)  # type: ignore[arg-type]


def states(world: World) -> list[str]:
    return [slot.state for one in world.scheduler.view("", "").backends for slot in one.slots]


def waits(world: World, wanted: Want) -> Ticket:
    found = world.scheduler.enter(wanted)
    assert isinstance(found, Ticket)
    return found


def got(ticket: Ticket) -> Lease:
    lease = ticket.wait(Cancel(), 0.0)
    assert lease is not None
    return lease


def test_whole_backend_is_granted_when_nothing_runs_there() -> None:
    world = World(slots=3)
    lease = world.scheduler.acquire(whole(), Cancel())
    assert states(world) == ["busy"] * 3
    assert world.scheduler.in_flight("b0") == 1
    chat = waits(world, want(world.scheduler, "chat"))
    assert chat.wait(Cancel(), 0.0) is None
    lease.release(Outcome("whole"))
    got(chat).release()
    assert states(world) == ["free"] * 3


def test_whole_backend_waits_for_answers_that_are_under_way() -> None:
    world = World(slots=2)
    answers = [world.take("one"), world.take("another one")]
    ticket = waits(world, whole())
    answers[0].release()
    assert ticket.wait(Cancel(), 0.0) is None
    answers[1].release()
    got(ticket).release()


def test_chats_that_keep_coming_do_not_starve_an_embedding() -> None:
    world = World(slots=2)
    answers = [world.take("chat 0"), world.take("chat 1")]
    ticket = waits(world, whole())
    later: list[Ticket] = []
    for number in range(2):
        later.append(waits(world, want(world.scheduler, f"later chat {number}")))
        answers.pop(0).release(Outcome("whole", -1, 10, 0, 4, 0.1))
        assert [one.wait(Cancel(), 0.0) for one in later] == [None] * len(later)
    lease = got(ticket)
    lease.release(Outcome("whole"))
    for one in later:
        got(one).release()


def test_embeddings_that_keep_coming_do_not_starve_a_chat() -> None:
    world = World(slots=2)
    for key in ("", "another"):
        lease = world.scheduler.acquire(whole(key=key), Cancel())
        chat = waits(world, want(world.scheduler, "chat"))
        embeddings = []
        for _ in range(4):  # several requests, and each comes back for its next texts
            embeddings.append(waits(world, whole(key=key)))
        for _ in range(3):
            if chat.lease is not None:
                break
            lease.release(Outcome("whole"))
            if chat.lease is None:
                lease = got(embeddings.pop(0))
                embeddings.append(waits(world, whole(key=key)))
        answer = got(chat)
        assert not any(one.lease for one in embeddings)
        answer.release()
        for one in embeddings:
            got(one).release()


def test_waiting_embedding_takes_one_backend_from_the_chats_and_leaves_the_others() -> None:
    world = World(slots=1, backends=3)
    answers = {(lease := world.take(f"chat {n}")).backend: lease for n in range(3)}
    first, second = waits(world, whole()), waits(world, whole())
    chats = [waits(world, want(world.scheduler, f"more {n}")) for n in range(2)]
    # Both wait for the first one that comes free; the other two go on serving chats.
    answers["b1"].release()
    lease = got(first)
    assert lease.backend == "b1"
    answers["b2"].release()
    answers["b0"].release()
    found = [one.wait(Cancel(), 0.0) for one in (second, *chats)]
    assert sum(one is not None for one in found) == 2
    lease.release(Outcome("whole"))
    for one in found:
        if one is not None:
            one.release()
    for ticket in (second, *chats):
        ticket.leave()
    assert world.scheduler.outstanding == 0


def test_embeddings_make_the_slots_forget() -> None:
    world = World(slots=2)
    world.turn("a conversation " * 40)
    world.scheduler.acquire(whole(), Cancel()).release(Outcome("whole", erased=True))
    assert world.take("a conversation " * 40).grant.cached == 0


def test_unused_whole_backend_keeps_what_its_slots_hold() -> None:
    world = World(slots=2)
    world.turn("a conversation " * 40)
    world.scheduler.acquire(whole(), Cancel()).release(Outcome("unused"))
    assert world.take("a conversation " * 40).grant.cached > 0


def test_whole_backend_ends_well_when_it_is_drained_or_replaced() -> None:
    world = World(slots=2, backends=2)
    leases = [world.scheduler.acquire(whole(), Cancel()) for _ in range(2)]
    world.scheduler.drain("b0")
    world.scheduler.update("b1", "m", up=True, slots=2, replaces=True)
    chats = [world.take("one"), world.take("two")]
    assert [chat.backend for chat in chats] == ["b1", "b1"]
    for lease in (*leases, *chats):
        lease.release(Outcome("whole"))
    assert world.scheduler.outstanding == 0
    assert [(one.backend, len(one.slots)) for one in world.scheduler.view("", "").backends] == [
        ("b1", 2)
    ]
    assert states(world) == ["free", "free"]


def test_whole_backend_is_granted_while_slots_are_guessed() -> None:
    world = World(slots=0)
    answers = [world.take(f"chat {n}") for n in range(4)]
    ticket = waits(world, whole())
    world.clock.now += 30  # time to try one slot more, but not for those behind
    chat = waits(world, want(world.scheduler, "chat"))
    for answer in answers:
        answer.release()
    assert chat.lease is None
    got(ticket).release(Outcome("whole"))
    got(chat).release()
