"""A state machine of shared schedulers: workers with different backends of any kind join, expire,
come back, embed and load snapshots, in any order, and agree.

No threads: a log in memory passes each entry at once to every worker that is awake; a sleeping
worker reads the entries that it missed when it wakes.
"""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from proxy.errors import NoBackend
from proxy.runtime.cancel import Cancel
from proxy.scheduling.lease import Lease, Outcome, Ticket
from proxy.scheduling.prefix import chain_of
from proxy.scheduling.shared import SharedScheduler, follower, ops, snapshot
from proxy.scheduling.shared.log import LogEntry, Position
from proxy.scheduling.shared.replica import LEASE
from proxy.scheduling.state import BackendFacts, SlotRequest
from tests.thorough import share
from tests.unit.scheduling.fakes import Clock, check_slots, ended

NAMES = ("a", "b", "c")
KINDS = (
    BackendFacts(model="m", slots=2),
    BackendFacts(model="m", slots=2, pins=False, cache_kind="ram"),
    BackendFacts(model="m", slots=2, cache_kind="files", release_delay=0.02),
    BackendFacts(model="m", slots=2, most=4, pins=False, cache_kind="ram"),  # learned
)
ENDS = ("whole", "cut", "busy", "failed", "unused")
PATIENCE = 1e6  # seconds


class Log:
    """The interface of RedisLog. Workers in `awake` read each entry at once."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.entries: list[LogEntry] = []
        self.kept = b"", (0, 0)
        self.awake: list[Worker] = []
        self._delivering = False

    def agree(self, rules: bytes) -> None:
        pass

    def begin(self) -> tuple[bytes, Position]:
        return self.kept

    def append(self, member: str, ops: bytes) -> Position:
        position = len(self.entries) + 1, 0
        self.entries.append(LogEntry(position, self.clock.now, member, ops))
        return position

    def read(self, position: Position) -> list[LogEntry]:
        return self.entries[position[0] :]

    def keep(self, number: int, position: Position, data: bytes) -> None:
        self.kept = data, position

    def close(self) -> None:
        pass

    def deliver(self) -> None:
        if self._delivering:
            return  # the outer call delivers everything
        self._delivering = True
        try:
            while any([worker.step() for worker in self.awake]):
                pass
        finally:
            self._delivering = False


class Worker:
    """`answers` and `waiting` are its requests; `used_while_offline` are answers on slots that the
    other workers count as free, since they consider this worker expired."""

    def __init__(self, log: Log, clock: Clock) -> None:
        self.log = log
        self.scheduler = SharedScheduler(
            log,  # type: ignore[arg-type]
            clock,
            version="1",
            max_queue=10**6,
            queue_timeout=PATIENCE,
            wait_for_backend=PATIENCE,
            groups=True,
            disk=1 << 20,
        )
        self.follower = self.scheduler._follower
        self.follower._join()
        self.scheduler._post = self.post
        self.answers: list[Lease] = []
        self.used_while_offline: list[Lease] = []
        self.waiting: list[Ticket] = []
        log.awake.append(self)

    @property
    def name(self) -> str:
        return self.follower._me

    @property
    def position(self) -> Position:
        return self.follower._position

    def post(self, op: Any) -> None:
        self.follower.post(op)
        self.log.deliver()

    def step(self) -> bool:
        """Writes its outbox and reads new entries. True if there were any."""
        written, self.follower._outbox = self.follower._outbox, []
        if written:
            self.log.append(self.name, ops.encode(written))
        before = self.position
        self.follower._take(self.follower.replica, self.follower._log.read(before))
        return self.position != before

    def is_up(self, name: str) -> bool:
        return self.scheduler._backends.get(name, (False, None))[0] is True

    def find_strayed(self) -> None:
        """Moves answers whose lease the other workers no longer know to `used_while_offline`."""
        known = self.follower.member
        mine = known.leases.keys() if known is not None else set()
        for lease in tuple(self.answers):
            if lease.id not in mine:
                self.answers.remove(lease)
                self.used_while_offline.append(lease)


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.log = Log(self.clock)
        self.workers: list[Worker] = []
        self.facts = KINDS[0]

    @initialize(facts=st.sampled_from(KINDS))
    def begin(self, facts: BackendFacts) -> None:
        self.facts = facts
        for names in ("ab", "bc"):
            self.join(set(names))

    @property
    def awake(self) -> list[Worker]:
        return self.log.awake

    # workers

    @precondition(lambda self: len(self.workers) < 4)
    @rule(names=st.sets(st.sampled_from(NAMES)))
    def join(self, names: set[str]) -> None:
        worker = Worker(self.log, self.clock)
        self.workers.append(worker)
        self.log.deliver()
        for name in sorted(names):
            worker.scheduler.update(name, self.facts, up=True)

    @precondition(lambda self: len(self.awake) > 1)
    @rule(data=st.data(), seconds=st.sampled_from((1.0, 2 * LEASE)))
    def sleep(self, data: st.DataObject, seconds: float) -> None:
        """Long enough, perhaps, for the others to consider it expired."""
        self.awake.remove(data.draw(st.sampled_from(self.awake)))
        self.pass_time(seconds)

    @precondition(lambda self: len(self.awake) < len(self.workers))
    @rule(data=st.data())
    def wake(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from([w for w in self.workers if w not in self.awake]))
        self.awake.append(worker)
        self.log.deliver()
        worker.find_strayed()

    @precondition(lambda self: len(self.awake) < len(self.workers))
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        """For good: its slots become free when its membership expires."""
        self.workers.remove(
            data.draw(st.sampled_from([w for w in self.workers if w not in self.awake]))
        )

    @precondition(lambda self: self.awake)
    @rule(data=st.data())
    def keep(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.awake))
        replica = worker.follower.replica
        self.log.keep(replica.entries, worker.position, snapshot.dump(replica))

    @rule(seconds=st.sampled_from((0.1, 1.0, 2 * LEASE)))
    def pass_time(self, seconds: float) -> None:
        """Workers that are awake send heartbeats meanwhile."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now = min(end, self.clock.now + 1.0)
            for worker in self.awake:
                worker.post(ops.Heartbeat())
        self.collect()

    # backends

    @precondition(lambda self: self.awake)
    @rule(data=st.data(), name=st.sampled_from(NAMES), what=st.sampled_from("uuudgr"))
    def change(self, data: st.DataObject, name: str, what: str) -> None:
        """A backend goes up or down, is drained or replaced by another of the same name."""
        self.collect()  # what was granted before
        scheduler = data.draw(st.sampled_from(self.awake)).scheduler
        if what == "d":
            scheduler.mark(name, up=False)
        elif what == "g":
            scheduler.drain(name)
        elif what == "r" and name in scheduler._backends:
            scheduler.update(name, self.facts, up=None, replaces=True)
        else:
            scheduler.update(name, self.facts, up=True)
        self.collect()

    # requests

    @precondition(lambda self: self.awake)
    @rule(data=st.data(), wholes=st.lists(st.sampled_from((False, False, True)), min_size=1))
    def ask(self, data: st.DataObject, wholes: list[bool]) -> None:
        """Several requests, some of which need a backend to themselves."""
        for whole in wholes[:5]:
            worker = data.draw(st.sampled_from(self.awake))
            prompt = "" if whole else f"conversation {data.draw(st.integers(0, 3))} " * 40
            group = data.draw(st.sampled_from("gh"))
            request = SlotRequest(
                model="m",
                chain=chain_of(prompt, (len(prompt),), group),
                key=group,
                group=group,
                whole_backend=whole,
                session=data.draw(st.sampled_from(("", "s"))),
                tools=data.draw(st.booleans()),
            )
            try:
                found = worker.scheduler.enter(request)
            except NoBackend:
                assert not any(worker.is_up(name) for name in NAMES)
                continue
            if isinstance(found, Ticket):
                worker.waiting.append(found)
            else:
                self.begin_answer(worker, found)

    def begin_answer(self, worker: Worker, lease: Lease) -> None:
        assert worker.is_up(lease.backend), "granted a backend that the worker does not have"
        worker.answers.append(lease)

    @precondition(lambda self: any(w.answers or w.used_while_offline for w in self.awake))
    @rule(
        data=st.data(),
        end=st.sampled_from(ENDS),
        flows=st.booleans(),
        calls=st.booleans(),
    )
    def end(self, data: st.DataObject, end: Any, flows: bool, calls: bool) -> None:
        some = [(w, x) for w in self.awake for x in (*w.answers, *w.used_while_offline)]
        worker, lease = data.draw(st.sampled_from(some))
        for step in lease.steps() if lease in worker.answers else ():
            lease.step_done(step, 10, 100, 0.1)
        if flows:
            lease.on_first_token(lease.slot.id)
        outcome = ended(lease.slot.id, 50, 10)
        lease.release(msgspec.structs.replace(outcome, end=end, calls=calls))
        for mine in (worker.answers, worker.used_while_offline):
            if lease in mine:
                mine.remove(lease)
        self.collect()

    @precondition(lambda self: any(w.waiting for w in self.awake))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        worker, ticket = data.draw(st.sampled_from([(w, t) for w in self.awake for t in w.waiting]))
        worker.waiting.remove(ticket)
        ticket.leave()

    def collect(self) -> None:
        for worker in self.awake:
            for ticket in tuple(worker.waiting):
                try:
                    lease = ticket.wait(Cancel(), 0.0)
                except NoBackend:
                    worker.waiting.remove(ticket)
                    continue
                if lease is not None:
                    worker.waiting.remove(ticket)
                    self.begin_answer(worker, lease)

    # invariants

    @invariant()
    def replicas_agree(self) -> None:
        views = [w.follower.replica.scheduler.view("", "") for w in self.awake]
        assert all(view == views[0] for view in views)

    @invariant()
    def no_slot_is_leased_twice(self) -> None:
        """Except to workers considered expired."""
        for worker in self.awake:
            worker.find_strayed()
        for worker in self.awake[:1]:
            members = worker.follower.replica.members
            leases = [
                members[one.name].leases[lease.id] for one in self.awake for lease in one.answers
            ]
            for one, other in itertools.combinations(leases, 2):
                # A lease may outlive its backend, whose name another server has now.
                if one.grant.backend is other.grant.backend:
                    assert not one.grant.whole and not other.grant.whole
                    assert one.slot is not other.slot

    @invariant()
    def busy_slots_have_leases(self) -> None:
        for worker in self.awake[:1]:
            replica = worker.follower.replica
            leases = [one for m in replica.members.values() for one in m.leases.values()]
            check_slots(replica.scheduler, leases)

    def teardown(self) -> None:
        """Sleeping workers expire; every answer ends, so each waiting request gets a slot."""
        if not self.awake:
            return
        self.pass_time(2 * LEASE)
        for worker in self.awake:
            worker.scheduler.update("a", self.facts, up=True)
        waiting = sum(len(worker.waiting) for worker in self.awake)
        for _ in range(2 * waiting + 4):
            for worker in self.awake:
                for lease in (*worker.answers, *worker.used_while_offline):
                    lease.release(ended(lease.slot.id, 50, 10, completion=5))
                worker.answers.clear()
                worker.used_while_offline.clear()
            self.pass_time(40.0)
        assert not any(worker.waiting or worker.answers for worker in self.awake)
        assert all(worker.scheduler.outstanding == 0 for worker in self.awake)
        assert self.awake[0].follower.replica.scheduler.outstanding == 0
        assert self.awake[0].follower.replica.members.keys() == {w.name for w in self.awake}


def test_request_of_an_expired_worker_is_written_again_though_a_probe_is_written_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after a machine was suspended: the log takes the worker for a new one."""
    monkeypatch.setattr(follower.Follower, "start", lambda self: None)
    machine = Machine()
    one, two = (Worker(machine.log, machine.clock) for _ in range(2))
    facts = BackendFacts(model="m", slots=1)
    for worker in (one, two):
        worker.scheduler.update("a", facts, up=True)
    request = SlotRequest(model="m")
    lease, ticket = one.scheduler.enter(request), two.scheduler.enter(request)
    assert isinstance(lease, Lease) and isinstance(ticket, Ticket)
    machine.awake.remove(two)
    machine.pass_time(2 * LEASE)
    machine.awake.append(two)
    machine.log.deliver()
    two.scheduler.update("a", facts, up=True)
    lease.release(Outcome(end="whole", slot=0, prompt=1, completion=1))
    machine.pass_time(1.0)
    assert ticket.wait(Cancel(), 0.0) is not None


def test_workers_with_different_backends_share_slots_correctly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(follower.Follower, "start", lambda self: None)
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=share(100), stateful_step_count=40)
    )
    assert "unhandled exception" not in caplog.text
