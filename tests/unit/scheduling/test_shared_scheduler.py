"""The shared scheduler over a log in memory, which can be taken away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from proxy.cancel import Cancel
from proxy.core.task import Task
from proxy.errors import Cancelled, NoBackend, QueueFull, QueueTimeout
from proxy.scheduling.lease import Lease, Outcome
from proxy.scheduling.shared import LogError, SharedScheduler, follower, ops
from proxy.scheduling.shared.log import Entry
from proxy.scheduling.state import Step, Want
from proxy.scheduling.ticket import Ticket
from tests.unit.scheduling.fakes import want

PATIENCE = 20.0


class Memory:
    """What is common to all logs below. `gone`: nobody reaches it."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.news = threading.Condition()
        self.gone = False

    def append(self, member: str, ops: bytes) -> str:
        with self.news:
            at = f"{len(self.entries) + 1}-0"
            self.entries.append(Entry(at, time.monotonic(), member, ops))
            self.news.notify_all()
            return at


class FakeLog:
    """As RedisLog has it."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def _reach(self) -> None:
        if self._memory.gone:
            raise LogError("gone")

    def agree(self, rules: bytes) -> None:
        self._reach()

    def begin(self) -> tuple[bytes, str]:
        self._reach()
        return b"", "0-0"

    def append(self, member: str, ops: bytes) -> str:
        self._reach()
        return self._memory.append(member, ops)

    def read(self, position: str) -> list[Entry]:
        after = int(position.split("-")[0])
        with self._memory.news:
            self._memory.news.wait_for(
                lambda: self._memory.gone or len(self._memory.entries) > after, 0.2
            )
            self._reach()
            return self._memory.entries[after:]

    def keep(self, position: str, data: bytes) -> None:
        self._reach()

    def close(self) -> None:
        pass


Join = Callable[..., SharedScheduler]


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def join(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Join]:
    monkeypatch.setattr(follower, "REJOIN", 0.05)
    made: list[SharedScheduler] = []

    def one(
        slots: int = 1, queue_timeout: float = PATIENCE, settles: float = 0.0, wait: float = 0.0
    ) -> SharedScheduler:
        log = FakeLog(memory)
        made.append(
            SharedScheduler(
                log,  # type: ignore[arg-type]
                time.monotonic,
                version="1",
                max_queue=4,
                queue_timeout=queue_timeout,
                wait_for_backend=wait,
            )
        )
        assert made[-1].ready(PATIENCE)
        made[-1].update("b", "m", up=True, slots=slots, settles=settles)
        return made[-1]

    yield one
    for scheduler in made:
        scheduler.close()


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, "it never came"
        threading.Event().wait(0.01)


def acquire(scheduler: SharedScheduler, text: str, cancel: Cancel | None = None) -> Lease:
    return scheduler.acquire(want(scheduler._alone, text), cancel or Cancel())


def test_two_take_turns_at_one_slot(join: Join) -> None:
    one, two = join(), join()
    lease = acquire(one, "a")
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(acquire, two, "b")
        until(lambda: one.waiting == 1)
        assert not waits.done()
        lease.release()
        got = waits.result(PATIENCE)
    assert (got.place, got.waited > 0) == (1, True)
    got.release()
    until(lambda: one.in_flight("b") == 0)


def test_who_waits_is_told_when_a_slot_that_settles_can_be_had(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "BEAT", 3 * PATIENCE)  # nothing else moves the log on
    one = join(settles=0.1)
    lease = acquire(one, "a")
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(acquire, one, "b")
        until(lambda: one.waiting == 1)
        lease.release(Outcome("whole", lease.slot.id, 1, 0, 1, 0.1))
        waits.result(PATIENCE).release()


def test_who_waits_goes_on_by_load_when_the_log_is_gone(join: Join, memory: Memory) -> None:
    one = join()
    held = acquire(one, "a")
    with ThreadPoolExecutor(2) as pool:
        waits = [pool.submit(acquire, one, text) for text in "bc"]
        until(lambda: one.waiting == 2)
        memory.gone = True
        # The slot is taken in the table that is lost; nobody here knows of it any more.
        until(lambda: any(two.done() for two in waits))
        first, second = sorted(waits, key=lambda two: not two.done())
        assert not second.done()
        assert one.notices
        first.result().release()
        second.result(PATIENCE).release()
    memory.gone = False
    until(lambda: not one.notices)
    held.release()
    acquire(one, "d").release()
    assert one.outstanding == 0


def test_what_ends_a_wait(join: Join) -> None:
    one, hasty = join(), join(queue_timeout=0.1)
    held = acquire(one, "a")
    with pytest.raises(QueueTimeout):
        acquire(hasty, "b")
    cancel = Cancel()
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(acquire, one, "c", cancel)
        until(lambda: one.waiting == 1)
        cancel.cancel()
        with pytest.raises(Cancelled):
            waits.result(PATIENCE)
    ticket = one.enter(want(one._alone, "d"))
    assert not isinstance(ticket, Lease)
    assert ticket.wait(Cancel(), 0.01) is None
    for each in (one, hasty):
        each.mark("b", up=False)
    with pytest.raises(NoBackend):
        ticket.wait(Cancel())
    held.release()
    until(lambda: one.waiting == 0)


# a backend that is down


def test_requests_wait_until_a_backend_is_up_again(join: Join) -> None:
    one, two = join(slots=4, wait=PATIENCE), join(slots=4, wait=PATIENCE)
    looks: list[str] = []
    one.on_stranded = looks.append
    one.mark("b", up=False)
    two.mark("b", up=False)
    with ThreadPoolExecutor(4) as pool:
        waits = [pool.submit(acquire, one, text) for text in "abcd"]
        until(lambda: one.waiting == 4)
        assert looks == ["m"] * 4
        with pytest.raises(QueueFull):
            acquire(one, "e")
        one.update("b", "m", up=True, slots=4)
        for wait in waits:
            wait.result(PATIENCE).release()
    until(lambda: one.outstanding == one.waiting == 0)


def test_one_key_cannot_fill_the_queue_of_all_workers(join: Join) -> None:
    one, two = join(), join()
    lease = acquire(one, "a")
    greedy = []
    for number in range(4):
        found = one.enter(want(one._alone, f"greedy {number}", key="greedy"))
        assert isinstance(found, Ticket)
        greedy.append(found)
    modest = two.enter(want(two._alone, "modest", key="modest"))
    assert isinstance(modest, Ticket)
    with pytest.raises(QueueFull, match="made room for another key"):
        greedy[3].wait(Cancel(), PATIENCE)
    for ticket in (*greedy, modest):
        ticket.leave()
    lease.release()
    until(lambda: one.waiting == one.in_flight("b") == 0)


def test_one_key_cannot_fill_the_wait_for_a_backend(join: Join) -> None:
    one = join(slots=4, wait=PATIENCE)
    one.mark("b", up=False)
    greedy = [one.enter(want(one._alone, f"{n}", key="greedy")) for n in range(4)]
    modest = one.enter(want(one._alone, "modest", key="modest"))
    assert isinstance(modest, Ticket) and one.waiting == 4
    lost = greedy[3]
    assert isinstance(lost, Ticket)
    with pytest.raises(QueueFull, match="made room for another key"):
        lost.wait(Cancel(), PATIENCE)
    one.mark("b", up=True)
    for ticket in (*greedy[:3], modest):
        assert isinstance(ticket, Ticket)
        lease = ticket.wait(Cancel(), PATIENCE)
        assert lease is not None
        lease.release()
    until(lambda: one.waiting == one.in_flight("b") == 0)


def test_worker_that_cannot_reach_a_backend_waits_while_another_uses_it(join: Join) -> None:
    one, two = join(wait=PATIENCE), join(wait=PATIENCE)
    one.mark("b", up=False)
    acquire(two, "a").release()
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(acquire, one, "b")
        until(lambda: one.waiting == 1)
        one.mark("b", up=True)
        waits.result(PATIENCE).release()


def test_queued_requests_wait_when_the_backend_goes_down(join: Join) -> None:
    one = join(wait=PATIENCE)
    held = acquire(one, "a")
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(acquire, one, "b")
        until(lambda: one.waiting == 1)
        one.mark("b", up=False)
        held.release(Outcome("failed"))
        until(lambda: len(one._stranded) == 1)
        one.update("b", "m", up=True, slots=1)
        waits.result(PATIENCE).release()


def test_wait_for_a_backend_ends(join: Join) -> None:
    one = join(wait=0.1)
    one.mark("b", up=False)
    with pytest.raises(NoBackend):
        acquire(one, "a")
    long = join(wait=PATIENCE, queue_timeout=0.1)
    long.mark("b", up=False)
    with pytest.raises(QueueTimeout):
        acquire(long, "b")
    patient = join(wait=PATIENCE)
    patient.mark("b", up=False)
    cancel = Cancel()
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(acquire, patient, "c", cancel)
        until(lambda: patient.waiting == 1)
        cancel.cancel()
        with pytest.raises(Cancelled):
            waits.result(PATIENCE)
    assert patient.waiting == 0


def test_requests_that_wait_for_a_backend_go_on_without_the_log(join: Join, memory: Memory) -> None:
    one = join(wait=PATIENCE)
    one.mark("b", up=False)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(acquire, one, "a")
        until(lambda: one.waiting == 1)
        memory.gone = True
        until(lambda: bool(one.notices))
        one.mark("b", up=True)
        waits.result(PATIENCE).release()


def test_queue_timeout_counts_from_where_a_request_began_to_wait(join: Join) -> None:
    one = join(queue_timeout=5.0)
    late = msgspec.structs.replace(want(one._alone, "a"), since=time.monotonic() - 6.0)
    with pytest.raises(QueueTimeout):
        one.enter(late, again=True)
    soon = msgspec.structs.replace(late, since=time.monotonic() - 4.8)
    held = acquire(one, "b")
    began = time.monotonic()
    with pytest.raises(QueueTimeout):
        one.acquire(soon, Cancel(), again=True)
    assert time.monotonic() - began < 4.0
    held.release()


def test_request_is_written_again_when_health_was_quicker_than_the_log(join: Join) -> None:
    one = join(wait=PATIENCE)
    held = acquire(one, "a")
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(acquire, one, "b")
        until(lambda: one.waiting == 1)
        with one._lock:  # nothing is read in between: the news meet a backend that is up again
            one.mark("b", up=False)
            one._mine["b"] = True, one._mine["b"][1]
        until(lambda: len(one._stranded) == 1)
        one._post(ops.Down("b", True))
        held.release()
        waits.result(PATIENCE).release()


# workers that differ


def test_worker_is_never_granted_a_backend_that_it_does_not_have(join: Join) -> None:
    one, two = join(), join()
    two.update("c", "m", up=True, slots=4)
    until(lambda: one._follower.replica.scheduler.slots("c") == 4)
    first = acquire(one, "a")
    assert first.backend == "b"
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(acquire, one, "b")  # although "c" has free slots
        until(lambda: one.waiting == 1)
        assert acquire(two, "c").backend == "c"
        assert not waits.done()
        one.update("c", "m", up=True, slots=4)  # its own reload
        assert waits.result(PATIENCE).backend == "c"


def test_request_that_waits_is_not_granted_a_backend_that_was_let_go_of(join: Join) -> None:
    one, two = join(), join()
    for scheduler in (one, two):
        scheduler.update("c", "m", up=True, slots=1)
    held = [acquire(two, "a"), acquire(two, "b")]
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(acquire, one, "c")
        until(lambda: one.waiting == 1)
        one.drain("c")
        for lease in sorted(held, key=lambda lease: lease.backend != "c"):
            lease.release()
        assert waits.result(PATIENCE).backend == "b"


def test_two_workers_that_embed_on_one_server_do_not_lock_each_other_out(join: Join) -> None:
    workers = [join(slots=2), join(slots=2)]
    whole = Want("m", Task(prompt=""), aside=True, whole_backend=True)
    running: list[bool] = []

    def embed(worker: SharedScheduler) -> None:
        for _ in range(3):
            lease = worker.acquire(whole, Cancel(), again=False)
            running.append(True)
            assert len(running) == 1
            running.pop()
            lease.release(Outcome("whole"))

    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(embed, worker) for worker in workers * 2]
        chats = [pool.submit(acquire, worker, "chat") for worker in workers]
        for chat in chats:
            chat.result(PATIENCE).release()
        for call in calls:
            call.result(PATIENCE)
    until(lambda: not any(worker.outstanding for worker in workers))


# what nobody thought of


def test_threads_of_the_log_survive_an_unexpected_exception(
    join: Join, memory: Memory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = join()
    append, faults = FakeLog.append, [OverflowError("int too big")] * 3

    def broken(log: FakeLog, member: str, ops: bytes) -> str:
        if faults:
            raise faults.pop()
        return append(log, member, ops)

    monkeypatch.setattr(FakeLog, "append", broken)
    one.mark("b", up=True)
    until(lambda: not faults)
    until(lambda: not one.notices)
    acquire(one, "a").release()
    until(lambda: one.in_flight("b") == 0)
    assert caplog.text.count("a defect in sharing the table") == 1


def test_numbers_beyond_bounds_reach_no_entry_of_the_log(join: Join) -> None:
    one = join()
    lease = acquire(one, "a")
    lease.flows(10**30)
    lease.release(Outcome("whole", 10**30, 10**40, -(10**40), 1 << 64, float("inf")))
    until(lambda: one.in_flight("b") == 0)
    assert not one.notices
    acquire(one, "a").release()


def test_what_cannot_be_written_costs_no_slot(caplog: pytest.LogCaptureFixture) -> None:
    bad = ops.Stepped(1 << 70, Step("save"), 0, 0, 0.0)
    back = ops.Back(3, Outcome())
    msgspec.structs.force_setattr(back.outcome, "prompt", 1 << 70)
    assert ops.decode(ops.encode([bad, ops.Beat(), back])) == [ops.Beat(), ops.Leave(3)]
    assert caplog.text.count("cannot be written") == 2


def test_request_that_waits_keeps_its_turn_when_its_worker_was_thought_dead(
    join: Join, memory: Memory
) -> None:
    one, two = join(), join()
    held = acquire(two, "a")
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(acquire, one, "b")
        until(lambda: two.waiting == 1)
        with one._lock:  # it stands still, and the others bury it
            memory.append(one._follower._me, ops.encode([ops.Bye()]))
        held.release()
        waits.result(PATIENCE).release()
    until(lambda: one.outstanding == two.waiting == 0)
