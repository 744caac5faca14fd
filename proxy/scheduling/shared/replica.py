"""The shared table of slots: a local scheduler driven by the log's entries.

Every worker applies the same entries in the same order to the same scheduler. Its policy is pure,
so all workers come to the same decisions without further communication. The log's time is the only
clock; nothing here does I/O or depends on which worker it runs in.

A worker not heard of for `LEASE` seconds is dead: its slots become free and its places in the queue
are dropped. If no worker was heard of for so long, the log itself stood still and none is dead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from sys import intern

import msgspec
from msgspec import Struct

from ...errors import GatewayError
from ..lease import Lease, Outcome, Ticket
from ..scheduler import LocalScheduler
from ..state import BackendFacts, SlotStep
from . import ops
from .ops import FORMAT, Op

log = logging.getLogger("slotproxy.scheduling")

LEASE = 6.0  # seconds


class SlotWanted(Struct, frozen=True):
    """Others need the slot of an idle request."""


OpValue = Lease | Ticket | GatewayError | SlotWanted | tuple[SlotStep, ...] | None


class SharedRules(Struct, frozen=True):
    """The settings that all workers sharing a table must agree on."""

    version: str
    format: int = FORMAT
    max_queue: int = 256
    wait_for_backend: float = 0.0
    groups: bool = False
    disk: int = 0

    def scheduler(self, clock: Callable[[], float], queue_timeout: float = 300.0) -> LocalScheduler:
        options = msgspec.structs.asdict(self)
        del options["version"], options["format"]
        return LocalScheduler(clock, queue_timeout=queue_timeout, **options)


class OpResult(Struct, frozen=True):
    """The result of request `id` of a member: its lease, its ticket, an error, its steps, that its
    slot is wanted, or None once its first token is recorded."""

    member: str
    id: int
    value: OpValue


class ReplicaMember(Struct, eq=False):
    """One worker: when it was last heard of, its view of the backends, its leases and tickets. Its
    waiting requests refer to `backends`, so that dictionary is never replaced."""

    last: float
    backends: dict[str, bool | None] = {}
    leases: dict[int, Lease] = {}
    tickets: dict[int, Ticket] = {}


class Replica:
    """`now` is the log's time in seconds, `entries` the number of entries applied."""

    def __init__(self, rules: SharedRules) -> None:
        self.rules = rules
        self.now = 0.0
        self.entries = 0
        self.members: dict[str, ReplicaMember] = {}
        self.facts: dict[str, BackendFacts] = {}
        self.scheduler = rules.scheduler(lambda: self.now)
        self._owners: dict[Ticket, tuple[str, int]] = {}
        self._settled: list[Ticket] = []  # got a lease or an error by the current entry
        self.scheduler.on_settled = self._settled.append
        self._wanted: list[Lease] = []  # leases of idle requests that others need
        self.scheduler.on_wanted = self._wanted.append

    def apply(self, now: float, name: str, written: Sequence[Op]) -> list[OpResult]:
        """Apply one entry of member `name`. Returns the results for all members."""
        self.entries += 1
        if now - self.now > LEASE:
            for member in self.members.values():
                member.last = now
        self.now = max(self.now, now)
        writer = self.members.get(name)
        if writer is None:
            writer = self.members[name] = ReplicaMember(self.now)
        writer.last = self.now
        for other in [n for n, m in self.members.items() if self.now - m.last > LEASE]:
            self._remove_member(other)
        results: list[OpResult] = []
        for op in written:
            try:
                self._do(name, writer, op, results)
            except Exception:
                # Every worker gets the same exception here; stopping at it would stop all of them.
                log.exception("unhandled exception while applying %s", type(op).__name__)
        results += self._take_results()
        results += self._take_wanted()
        return results

    def _do(self, name: str, writer: ReplicaMember, op: Op, results: list[OpResult]) -> None:
        lease = writer.leases.get(getattr(op, "id", 0))
        match op:
            case ops.Enqueue():
                results.append(OpResult(name, op.id, self._enqueue(name, writer, op)))
            case ops.Leave():
                self._leave(writer, op.id)
            case ops.Release() if lease is not None:
                del writer.leases[op.id]
                lease.release(op.outcome)
            case ops.FirstToken() if lease is not None:
                lease.on_first_token(op.number)
                results.append(OpResult(name, op.id, None))
            case ops.RequestSteps() if lease is not None:
                results.append(OpResult(name, op.id, lease.steps()))
            case ops.StepDone() if lease is not None:
                self.scheduler.record_step(lease, op.step, op.tokens, op.size, op.seconds)
            case ops.BackendFound():
                self._on_backend_found(writer, op)
            case ops.BackendHealth():
                if op.name in writer.backends:
                    writer.backends[op.name] = op.up
                    self._update_health(op.name, op.load_delay)
            case ops.Drain():
                writer.backends.pop(op.name, None)
                if not any(op.name in member.backends for member in self.members.values()):
                    self.facts.pop(op.name, None)
                    self.scheduler.drain(op.name)
                self.scheduler.serve()
            case ops.Heartbeat():
                self.scheduler.serve_due()
            case ops.MemberLeft():
                self._remove_member(name)

    def _enqueue(
        self, name: str, writer: ReplicaMember, op: ops.Enqueue
    ) -> Lease | Ticket | GatewayError:
        try:
            key, group = intern(op.request.key), intern(op.request.group)  # many records keep them
            own = {"views": writer.backends, "since": self.now, "key": key, "group": group}
            request = msgspec.structs.replace(op.request, **own)
            entry = self.scheduler.enter(request, op.is_retry)
        except GatewayError as error:
            return error
        if isinstance(entry, Lease):
            writer.leases[op.id] = entry
        else:
            self.add_ticket(name, op.id, entry)
        return entry

    def _leave(self, writer: ReplicaMember, number: int) -> None:
        ticket = self._remove_ticket(writer, number)
        if ticket is not None:
            ticket.leave()
        lease = writer.leases.pop(number, None)
        if lease is not None:
            lease.release()

    def _take_results(self) -> Iterator[OpResult]:
        settled = self._settled[:]
        self._settled.clear()
        for ticket in settled:
            name, number = self._owners.get(ticket, ("", 0))
            member = self.members.get(name)
            if member is None or member.tickets.get(number) is not ticket:
                continue  # it has left the queue
            lease, ticket.lease = ticket.lease, None
            if lease is not None:
                self._remove_ticket(member, number)
                member.leases[number] = lease
                lease.waited = self.now - ticket.began
                lease.place = ticket.first_place
                yield OpResult(name, number, lease)
            elif ticket.error is not None:
                self._remove_ticket(member, number)
                yield OpResult(name, number, ticket.error)

    def _take_wanted(self) -> Iterator[OpResult]:
        leases = dict.fromkeys(self._wanted)
        self._wanted.clear()
        for name, member in self.members.items() if leases else ():
            for number, lease in member.leases.items():
                if lease in leases:
                    lease.wanted = True
                    yield OpResult(name, number, SlotWanted())

    def _remove_ticket(self, member: ReplicaMember, number: int) -> Ticket | None:
        ticket = member.tickets.pop(number, None)
        if ticket is not None:
            self._owners.pop(ticket, None)
        return ticket

    def add_ticket(self, name: str, number: int, ticket: Ticket) -> None:
        """Record that the request `number` of member `name` waits with this ticket."""
        self.members[name].tickets[number] = ticket
        self._owners[ticket] = name, number

    def _on_backend_found(self, writer: ReplicaMember, op: ops.BackendFound) -> None:
        """Record a member's probe of a backend. It is news, and resets the records, if the facts
        changed or this member saw the backend down before, since it may have restarted. Otherwise
        the member only joins those that already have the backend."""
        before = writer.backends.get(op.name)
        up_for = any(member.backends.get(op.name) for member in self.members.values())
        others = any(
            op.name in member.backends for member in self.members.values() if member is not writer
        )
        writer.backends[op.name] = op.up
        is_known = op.name in self.facts
        # While other members have the old server under this name, its records stand for both.
        replaces = op.replaces and not others
        if is_known and op.up is None and not replaces:
            self.scheduler.serve()
            return
        is_same = is_known and self.facts[op.name] == op.facts
        if is_same and up_for and before is not False and not (replaces or op.anew):
            self.scheduler.serve()  # the member's own requests may use the backend from now on
            return
        self.facts[op.name] = op.facts
        up = op.up if replaces or not up_for else True
        self.scheduler.update(op.name, op.facts, up=up, replaces=replaces)

    def _update_health(self, name: str, load_delay: float = 0.0) -> None:
        """Mark a backend up while at least one member finds it up."""
        views = [m.backends[name] for m in self.members.values() if name in m.backends]
        if views:
            self.scheduler.mark(name, any(views), load_delay)

    def _remove_member(self, name: str) -> None:
        member = self.members.pop(name)
        for ticket in member.tickets.values():
            self._owners.pop(ticket, None)
            ticket.leave()
        for lease in member.leases.values():
            lease.release(Outcome(end="cut"))
        for backend in member.backends:
            self._update_health(backend)
