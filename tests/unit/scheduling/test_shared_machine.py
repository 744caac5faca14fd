"""The shared scheduler with workers that differ: they join, die, come back, have other backends
than one another, embed, and join from snapshots, in any order.

No thread runs: a log in memory hands each entry on as soon as it is written, to every worker that
is awake; a worker that sleeps reads what it missed when it wakes.
"""

from __future__ import annotations

import itertools
from typing import Any

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

from proxy.cancel import Cancel
from proxy.core.task import Task
from proxy.errors import NoBackend
from proxy.scheduling.lease import Lease, Outcome
from proxy.scheduling.shared import SharedScheduler, follower, snapshot
from proxy.scheduling.shared.log import Entry
from proxy.scheduling.shared.replica import LEASE
from proxy.scheduling.state import Want
from proxy.scheduling.ticket import Ticket
from tests.thorough import share
from tests.unit.scheduling.fakes import Clock

NAMES = ("a", "b", "c")
ENDS = ("whole", "cut", "busy", "failed", "unused")
PATIENCE = 1e6  # seconds


class Log:
    """As RedisLog has it. `awake` workers read at once what anybody wrote."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.entries: list[Entry] = []
        self.kept = (b"", "0-0")
        self.awake: list[Worker] = []
        self._handing_on = False

    def agree(self, rules: bytes) -> None:
        pass

    def begin(self) -> tuple[bytes, str]:
        return self.kept

    def append(self, member: str, ops: bytes) -> str:
        at = f"{len(self.entries) + 1}-0"
        self.entries.append(Entry(at, self.clock.now, member, ops))
        return at

    def read(self, position: str) -> list[Entry]:
        return self.entries[int(position.split("-")[0]) :]

    def keep(self, position: str, data: bytes) -> None:
        self.kept = data, position

    def close(self) -> None:
        pass

    def hand_on(self) -> None:
        if self._handing_on:
            return  # whoever does already does it to the end
        self._handing_on = True
        try:
            while any([worker.step() for worker in self.awake]):
                pass
        finally:
            self._handing_on = False


class Worker:
    """`answers` and `waiting` are its requests; those in `strayed` are on slots that the others
    count as free, since they thought it dead."""

    def __init__(self, log: Log, clock: Clock) -> None:
        self.log = log
        self.scheduler = SharedScheduler(
            log,  # type: ignore[arg-type]
            clock,
            version="1",
            max_queue=10**6,
            queue_timeout=PATIENCE,
            wait_for_backend=PATIENCE,
        )
        self.follower = self.scheduler._follower
        self.position = self.follower._join()
        self.scheduler._post = self.post  # type: ignore[method-assign]
        self.answers: list[Lease] = []
        self.strayed: list[Lease] = []
        self.waiting: list[Ticket] = []
        log.awake.append(self)

    @property
    def name(self) -> str:
        return self.follower._me

    def post(self, op: Any) -> None:
        self.follower.post(op)
        self.log.hand_on()

    def step(self) -> bool:
        """Write what is to be written and read what is there; whether there was anything."""
        written, self.follower._outbox = self.follower._outbox, []
        if written:
            self.log.append(self.name, follower.ops.encode(written))
        before, self.position = self.position, self.follower._read(self.position)
        return self.position != before

    def is_up(self, name: str) -> bool:
        return self.scheduler._mine.get(name, (False, None))[0] is True

    def bear(self) -> None:
        """The others thought it dead: what it still has strays."""
        known = self.follower.member
        mine = known.leases.keys() if known is not None else set()
        for lease in tuple(self.answers):
            if lease.id not in mine:  # type: ignore[attr-defined]
                self.answers.remove(lease)
                self.strayed.append(lease)


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.log = Log(self.clock)
        self.workers: list[Worker] = []
        self.numbers = itertools.count()

    @initialize()
    def begin(self) -> None:
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
        self.log.hand_on()
        for name in sorted(names):
            worker.scheduler.update(name, "m", up=True, slots=2)

    @precondition(lambda self: len(self.awake) > 1)
    @rule(data=st.data(), seconds=st.sampled_from((1.0, 2 * LEASE)))
    def sleep(self, data: st.DataObject, seconds: float) -> None:
        """Perhaps for so long that the others think it dead."""
        self.awake.remove(data.draw(st.sampled_from(self.awake)))
        self.pass_time(seconds)

    @precondition(lambda self: len(self.awake) < len(self.workers))
    @rule(data=st.data())
    def wake(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from([w for w in self.workers if w not in self.awake]))
        self.awake.append(worker)
        self.log.hand_on()
        worker.bear()

    @precondition(lambda self: len(self.awake) < len(self.workers))
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        """For good. What it had comes free when the others notice."""
        self.workers.remove(
            data.draw(st.sampled_from([w for w in self.workers if w not in self.awake]))
        )

    @precondition(lambda self: self.awake)
    @rule(data=st.data())
    def keep(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.awake))
        self.log.keep(worker.position, snapshot.dump(worker.follower.replica))

    @rule(seconds=st.sampled_from((0.1, 1.0, 2 * LEASE)))
    def pass_time(self, seconds: float) -> None:
        """All that are awake say so meanwhile."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now = min(end, self.clock.now + 1.0)
            for worker in self.awake:
                worker.post(follower.ops.Beat())
        self.collect()

    # backends

    @precondition(lambda self: self.awake)
    @rule(data=st.data(), name=st.sampled_from(NAMES), what=st.sampled_from("uuudgr"))
    def change(self, data: st.DataObject, name: str, what: str) -> None:
        """Up, down, gone, or replaced by another of its name."""
        scheduler = data.draw(st.sampled_from(self.awake)).scheduler
        if what == "d":
            scheduler.mark(name, up=False)
        elif what == "g":
            scheduler.drain(name)
        elif what == "r" and name in scheduler._mine:
            scheduler.update(name, "m", up=None, slots=2, replaces=True)
        else:
            scheduler.update(name, "m", up=True, slots=2)
        self.collect()

    # requests

    @precondition(lambda self: self.awake)
    @rule(data=st.data(), wholes=st.lists(st.sampled_from((False, False, True)), min_size=1))
    def ask(self, data: st.DataObject, wholes: list[bool]) -> None:
        """Several requests, some of which need a backend to themselves."""
        for whole in wholes[:5]:
            worker = data.draw(st.sampled_from(self.awake))
            prompt = "" if whole else f"conversation {data.draw(st.integers(0, 3))} " * 40
            chain = worker.scheduler.chain(prompt, (len(prompt),))
            want = Want("m", Task(prompt=prompt), chain=chain, whole_backend=whole)
            try:
                found = worker.scheduler.enter(want)
            except NoBackend:
                assert not any(worker.is_up(name) for name in NAMES)
                continue
            if isinstance(found, Ticket):
                worker.waiting.append(found)
            else:
                self.begin_answer(worker, found)

    def begin_answer(self, worker: Worker, lease: Lease) -> None:
        assert worker.is_up(lease.backend), "granted a backend that it does not have"
        worker.answers.append(lease)

    @precondition(lambda self: any(w.answers or w.strayed for w in self.awake))
    @rule(data=st.data(), end=st.sampled_from(ENDS), flows=st.booleans())
    def end(self, data: st.DataObject, end: Any, flows: bool) -> None:
        some = [(w, x) for w in self.awake for x in (*w.answers, *w.strayed)]
        worker, lease = data.draw(st.sampled_from(some))
        if flows:
            lease.flows(lease.slot.id)
        lease.release(Outcome(end, lease.slot.id, 50, 10, 5, 0.1))
        for mine in (worker.answers, worker.strayed):
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

    # what always holds

    @invariant()
    def all_replicas_are_one(self) -> None:
        views = [w.follower.replica.scheduler.view("", "") for w in self.awake]
        assert all(view == views[0] for view in views)

    @invariant()
    def no_slot_is_given_twice(self) -> None:
        """But to those that were thought dead."""
        for worker in self.awake:
            worker.bear()
        for one, other in itertools.combinations(
            [lease for worker in self.awake for lease in worker.answers], 2
        ):
            if one.backend == other.backend:
                assert not one.grant.whole and not other.grant.whole
                assert one.slot.id != other.slot.id or one.slot is not other.slot

    @invariant()
    def slots_busy_are_leases_out(self) -> None:
        for worker in self.awake[:1]:
            replica = worker.follower.replica
            leases = [one for m in replica.members.values() for one in m.leases.values()]
            assert replica.scheduler.outstanding == len(leases)
            for name, (pool, backend) in replica.scheduler.records[1].items():
                mine = [one for one in leases if one.grant.backend is backend]
                assert backend.in_flight == len(mine), name
                busy = {id(slot) for slot in backend.slots if slot.busy}
                assert busy == {id(one.slot) for one in mine}
                assert backend.exclusive == any(one.grant.whole for one in mine)
                free = {id(s) for s in backend.slots if not s.busy} if backend.lends else set()
                assert {id(slot) for slot, owner in pool.free.items() if owner is backend} == free

    def teardown(self) -> None:
        """Who sleeps is dead by now; every answer ends, so whoever waits has its turn."""
        if not self.awake:
            return
        self.pass_time(2 * LEASE)
        for worker in self.awake:
            worker.scheduler.update("a", "m", up=True, slots=2)
        waiting = sum(len(worker.waiting) for worker in self.awake)
        for _ in range(2 * waiting + 4):
            for worker in self.awake:
                for lease in (*worker.answers, *worker.strayed):
                    lease.release(Outcome("whole", lease.slot.id, 50, 10, 5, 0.1))
                worker.answers.clear()
                worker.strayed.clear()
            self.pass_time(40.0)
        assert not any(worker.waiting or worker.answers for worker in self.awake)
        assert all(worker.scheduler.outstanding == 0 for worker in self.awake)
        assert self.awake[0].follower.replica.scheduler.outstanding == 0
        assert self.awake[0].follower.replica.members.keys() == {w.name for w in self.awake}


def test_workers_that_differ_lose_no_slot_and_give_none_twice(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(follower.Follower, "start", lambda self: None)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine, settings=settings(max_examples=share(60), stateful_step_count=40)
    )
    assert "a defect" not in caplog.text
