"""The shared scheduler over a log in memory that can become unreachable."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from proxy.errors import Cancelled, NoBackend, QueueFull, QueueTimeout
from proxy.runtime.cancel import Cancel
from proxy.scheduling.lease import Lease, Outcome
from proxy.scheduling.shared import LogError, SharedScheduler, follower, ops
from proxy.scheduling.shared import scheduler as module
from proxy.scheduling.shared.log import LogEntry, Position
from proxy.scheduling.state import BackendFacts, SlotStep
from tests.unit.scheduling.fakes import ended, slot_request

PATIENCE = 60.0


class Memory:
    """The entries that all FakeLogs share. While `gone`, no log can reach them."""

    def __init__(self) -> None:
        self.entries: list[LogEntry] = []
        self.news = threading.Condition()
        self.gone = False

    def append(self, member: str, ops: bytes) -> Position:
        with self.news:
            position = len(self.entries) + 1, 0
            self.entries.append(LogEntry(position, time.monotonic(), member, ops))
            self.news.notify_all()
            return position


class FakeLog:
    """The interface of RedisLog."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def _reach(self) -> None:
        if self._memory.gone:
            raise LogError("gone")

    def agree(self, rules: bytes) -> None:
        self._reach()

    def begin(self) -> tuple[bytes, Position]:
        self._reach()
        return b"", (0, 0)

    def append(self, member: str, ops: bytes) -> Position:
        self._reach()
        return self._memory.append(member, ops)

    def exchange(self, member: str, ops: bytes, position: Position) -> list[LogEntry]:
        self.append(member, ops)
        return self._memory.entries[position[0] :]

    def read(self, position: Position) -> list[LogEntry]:
        after = position[0]
        with self._memory.news:
            self._memory.news.wait_for(
                lambda: self._memory.gone or len(self._memory.entries) > after, 0.2
            )
            self._reach()
            return self._memory.entries[after:]

    def keep(self, number: int, position: Position, data: bytes) -> None:
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
    monkeypatch.setattr(module, "ANSWER", PATIENCE)  # a slow machine loses no log
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
        made[-1].update("b", BackendFacts(model="m", slots=slots, release_delay=settles), up=True)
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
    return scheduler.acquire(slot_request(text), cancel or Cancel())


def test_patience_ends_the_wait_for_a_backend_by_the_clock_of_this_worker(join: Join) -> None:
    one = join(wait=PATIENCE)
    one.patience = lambda model, waited, longest: 0.3 - waited
    one.mark("b", False)
    began = time.monotonic()
    with pytest.raises(NoBackend):
        acquire(one, "a")
    assert 0.3 <= time.monotonic() - began < PATIENCE / 2


def test_two_workers_take_turns_at_one_slot(join: Join) -> None:
    one, two = join(), join()
    lease = acquire(one, "a")
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(acquire, two, "b")
        until(lambda: one.waiting == 1)
        assert not waits.done()
        lease.release()
        granted = waits.result(PATIENCE)
    assert (granted.place, granted.waited > 0) == (1, True)
    granted.release()
    until(lambda: one.in_flight("b") == 0)


def test_waiting_request_gets_slot_after_release_delay(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "BEAT", 3 * PATIENCE)  # no other entry is written
    one = join(settles=0.1)
    lease = acquire(one, "a")
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(acquire, one, "b")
        until(lambda: one.waiting == 1)
        lease.release(ended(lease.slot.id, 1, completion=1))
        waits.result(PATIENCE).release()


def test_waiting_request_is_scheduled_locally_when_the_log_is_lost(
    join: Join, memory: Memory
) -> None:
    one = join()
    held = acquire(one, "a")
    with ThreadPoolExecutor(2) as pool:
        waits = [pool.submit(acquire, one, text) for text in "bc"]
        until(lambda: one.waiting == 2)
        memory.gone = True
        # The slot is leased in the lost table only; local scheduling does not know that lease.
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


def test_wait_ends_on_timeout_cancel_or_backend_down(join: Join) -> None:
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
    ticket = one.enter(slot_request("d"))
    assert not isinstance(ticket, Lease)
    assert ticket.wait(Cancel(), 0.01) is None
    for each in (one, hasty):
        each.mark("b", up=False)
    with pytest.raises(NoBackend):
        ticket.wait(Cancel())
    held.release()
    until(lambda: one.waiting == 0)


# a backend that is down


def test_requests_wait_until_backend_is_up_again(join: Join) -> None:
    one, two = join(slots=4, wait=PATIENCE), join(slots=4, wait=PATIENCE)
    looks: list[str] = []
    one.on_stranded = looks.append
    one.mark("b", up=False)
    two.mark("b", up=False)
    with ThreadPoolExecutor(4) as pool:
        waits = [pool.submit(acquire, one, text) for text in "abcd"]
        until(lambda: one.waiting == 4)
        until(lambda: looks == ["m"] * 4)
        with pytest.raises(QueueFull):
            acquire(one, "e")
        one.update("b", BackendFacts(model="m", slots=4), up=True)
        for wait in waits:
            wait.result(PATIENCE).release()
    until(lambda: one.outstanding == one.waiting == 0)


def test_request_waiting_for_backend_survives_loss_of_the_log(join: Join, memory: Memory) -> None:
    one = join(wait=PATIENCE)
    one.mark("b", up=False)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(acquire, one, "a")
        until(lambda: one.waiting == 1)
        memory.gone = True
        until(lambda: bool(one.notices))
        one.mark("b", up=True)
        waits.result(PATIENCE).release()


# unexpected failures


def test_log_threads_survive_unexpected_exception(
    join: Join, memory: Memory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = join()
    append, faults = FakeLog.append, [OverflowError("int too big")] * 3

    def broken(log: FakeLog, member: str, ops: bytes) -> Position:
        if faults:
            raise faults.pop()
        return append(log, member, ops)

    monkeypatch.setattr(FakeLog, "append", broken)
    one.mark("b", up=True)
    until(lambda: not faults)
    until(lambda: not one.notices)
    acquire(one, "a").release()
    until(lambda: one.in_flight("b") == 0)
    assert caplog.text.count("unhandled exception while sharing slots") == 1


def test_request_whose_entry_has_no_result_is_placed_without_the_log(
    join: Join, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = join()
    acquire(one, "a").release()
    append, nothing = FakeLog.append, ops.encode([ops.Heartbeat()])
    monkeypatch.setattr(FakeLog, "append", lambda log, member, _: append(log, member, nothing))
    monkeypatch.setattr(module, "ANSWER", 0.2)
    acquire(one, "b").release()
    until(lambda: "Redis is not responding" in caplog.text)


def test_request_without_a_result_is_placed_without_the_log_when_the_worker_stops(
    join: Join, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = join()
    acquire(one, "a").release()
    append, nothing = FakeLog.append, ops.encode([ops.Heartbeat()])
    monkeypatch.setattr(FakeLog, "append", lambda log, member, _: append(log, member, nothing))
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(acquire, one, "b")
        until(lambda: bool(one._unanswered))
        one.close()
        waits.result(PATIENCE).release()
    assert one.notices


def test_late_result_loses_the_log_at_the_second_look(join: Join) -> None:
    """At the first, this process may have stood still, and the result is about to be read."""
    one = join()

    def be_late() -> None:
        with one._lock:
            one._unanswered[99] = time.monotonic() - 2 * PATIENCE

    be_late()
    until(lambda: one._overdue == 99)
    assert not one.notices
    be_late()
    until(lambda: bool(one.notices))
    until(lambda: not one.notices)


# when the log is written and read


def test_worker_with_many_requests_reads_less_often_unless_one_may_have_to_give_way(
    join: Join,
) -> None:
    one = join(slots=2 * follower.MANY)
    pause = one._follower._pause
    idle = one.enter(msgspec.structs.replace(slot_request("idle"), idle=True))
    assert isinstance(idle, Lease)
    leases = [acquire(one, str(number)) for number in range(follower.MANY)]
    assert pause() == follower.PAUSE
    idle.release()
    until(lambda: pause() == follower.BUSY_PAUSE > follower.PAUSE)
    for lease in leases:
        lease.release()
    until(lambda: pause() == follower.PAUSE)


def test_operation_that_cannot_be_encoded_loses_no_slot(caplog: pytest.LogCaptureFixture) -> None:
    bad = ops.StepDone(1 << 70, SlotStep("save"), 0, 0, 0.0)
    back = ops.Release(3, Outcome())
    msgspec.structs.force_setattr(back.outcome, "prompt", 1 << 70)
    assert ops.decode(ops.encode([bad, ops.Heartbeat(), back])) == [ops.Heartbeat(), ops.Leave(3)]
    assert caplog.text.count("cannot be encoded") == 2
