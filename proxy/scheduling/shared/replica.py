"""The table of slots as the log tells it: the one scheduler, driven by what all workers wrote.

Everybody applies the same entries in the same order to the same scheduler, and its policy is pure,
so everybody comes to the same decisions and nobody has to tell them. The log's time is the only
clock; nothing here does I/O, or knows which of the workers it runs in.

Who has not been heard for `LEASE` seconds is dead: its slots come free, its places in the queue go.
When nobody was heard for so long, the log itself stood still, and nobody is blamed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from msgspec import Struct

from ...errors import GatewayError
from ..lease import Lease, Outcome
from ..scheduler import Scheduler
from ..state import Step
from ..ticket import Ticket
from . import ops
from .ops import FORMAT, Facts, Op

log = logging.getLogger("slotproxy.scheduling")

LEASE = 6.0  # seconds

News = Lease | Ticket | GatewayError | tuple[Step, ...] | None


class Rules(Struct, frozen=True):
    """What must be the same for all who share a table."""

    version: str
    format: int = FORMAT
    max_queue: int = 256
    groups: bool = False
    disk: int = 0


class Told(Struct, frozen=True):
    """What came of the request `id` of a member: its lease, a place in the queue, an error, steps;
    None: its first token is known."""

    member: str
    id: int
    news: News


class Member:
    """One worker: when it was heard last, how it finds the backends, what it has and waits for. Its
    waiting requests look at `backends` too, so that is one dictionary for good."""

    __slots__ = ("backends", "last", "leases", "tickets")

    def __init__(self, last: float) -> None:
        self.last = last
        self.backends: dict[str, bool | None] = {}
        self.leases: dict[int, Lease] = {}
        self.tickets: dict[int, Ticket] = {}


class Replica:
    """`now` is the log's time in seconds, `entries` counts what was applied."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.now = 0.0
        self.entries = 0
        self.members: dict[str, Member] = {}
        self.facts: dict[str, Facts] = {}
        self.scheduler = Scheduler(
            lambda: self.now, max_queue=rules.max_queue, groups=rules.groups, disk=rules.disk
        )

    def apply(self, now: float, name: str, written: Sequence[Op]) -> list[Told]:
        """One entry of the log. What came of it, for whomever."""
        self.entries += 1
        if not name:
            return []  # the beginning of the log
        if now - self.now > LEASE:
            for member in self.members.values():
                member.last = now
        self.now = max(self.now, now)
        mine = self.members.get(name)
        if mine is None:
            mine = self.members[name] = Member(self.now)
        mine.last = self.now
        for other in [n for n, m in self.members.items() if self.now - m.last > LEASE]:
            self._bury(other)
        told: list[Told] = []
        for op in written:
            try:
                self._do(name, mine, op, told)
            except Exception:
                # All come to the same here. To stop at it would be to stop for good.
                log.exception("a defect in applying %s", type(op).__name__)
        told += self._served()
        return told

    def _do(self, name: str, mine: Member, op: Op, told: list[Told]) -> None:
        match op:
            case ops.Come():
                told.append(Told(name, op.id, self._come(mine, op)))
            case ops.Leave():
                self._leave(mine, op.id)
            case ops.Back():
                lease = mine.leases.pop(op.id, None)
                if lease is not None:
                    lease.release(op.outcome)
            case ops.Flows() | ops.Ends() | ops.Steps() | ops.Stepped():
                lease = mine.leases.get(op.id)
                if lease is not None:
                    self._step(name, lease, op, told)
            case ops.Found():
                self._found(mine, op)
            case ops.Down():
                if op.name in mine.backends:
                    mine.backends[op.name] = op.up
                    self._judge(op.name, op.awaits)
            case ops.Drain():
                mine.backends.pop(op.name, None)
                if not any(op.name in member.backends for member in self.members.values()):
                    self.facts.pop(op.name, None)
                    self.scheduler.drain(op.name)
                self.scheduler.serve()
            case ops.Beat():
                self.scheduler.serve()
            case ops.Bye():
                self._bury(name)

    def _come(self, mine: Member, op: ops.Come) -> Lease | Ticket | GatewayError:
        self._leave(mine, op.id)  # a number that is used twice must not hide what it had
        try:
            found = self.scheduler.enter(op.want(mine.backends), op.again)
        except GatewayError as error:
            return error
        if isinstance(found, Lease):
            mine.leases[op.id] = found
        else:
            mine.tickets[op.id] = found
        return found

    def _step(
        self,
        name: str,
        lease: Lease,
        op: ops.Flows | ops.Ends | ops.Steps | ops.Stepped,
        told: list[Told],
    ) -> None:
        match op:
            case ops.Flows():
                lease.flows(op.number)
                told.append(Told(name, op.id, None))
            case ops.Ends():
                lease.ends()
            case ops.Steps():
                told.append(Told(name, op.id, lease.steps()))
            case ops.Stepped():
                self.scheduler.stepped(lease, op.step, op.tokens, op.size, op.seconds)

    def _leave(self, mine: Member, number: int) -> None:
        ticket = mine.tickets.pop(number, None)
        if ticket is not None:
            ticket.leave()
        lease = mine.leases.pop(number, None)
        if lease is not None:
            lease.release()

    def _served(self) -> Iterator[Told]:
        """Whose turn has come."""
        for name, member in self.members.items():
            for number, ticket in list(member.tickets.items()):
                lease, ticket.lease = ticket.lease, None
                if lease is not None:
                    del member.tickets[number]
                    member.leases[number] = lease
                    lease.waited = self.now - ticket.began
                    lease.place = ticket.first_place
                    yield Told(name, number, lease)
                elif ticket.error is not None:
                    del member.tickets[number]
                    yield Told(name, number, ticket.error)

    def _found(self, mine: Member, op: ops.Found) -> None:
        """Who finds what others found already has only joined them. Who saw it down before, or
        finds something else, tells news: then it may have started anew."""
        before = mine.backends.get(op.name)
        up_for = any(member.backends.get(op.name) for member in self.members.values())
        others = any(op.name in one.backends for one in self.members.values() if one is not mine)
        mine.backends[op.name] = op.up
        known = op.name in self.facts
        # While others have the old one by this name, its records stand for both.
        replaces = op.replaces and not others
        if known and op.up is None and not replaces:
            self.scheduler.serve()
            return
        joins = (
            known
            and up_for
            and not replaces
            and before is not False
            and self.facts[op.name] == op.facts
        )
        if joins and not op.anew:
            self.scheduler.serve()  # its own requests may go there from now on
            return
        self.facts[op.name] = op.facts
        up = op.up if replaces or not up_for else True
        facts = op.facts
        self.scheduler.update(
            op.name,
            facts.model,
            up=up,
            slots=facts.slots,
            weight=facts.weight,
            pins=facts.pins,
            keeps=facts.keeps,
            settles=facts.settles,
            replaces=replaces,
        )

    def _judge(self, name: str, awaits: float = 0.0) -> None:
        """A backend is up as long as somebody finds it so."""
        views = [m.backends[name] for m in self.members.values() if name in m.backends]
        if views:
            self.scheduler.mark(name, any(views), awaits)

    def _bury(self, name: str) -> None:
        member = self.members.pop(name)
        for ticket in member.tickets.values():
            ticket.leave()
        for lease in member.leases.values():
            lease.release(Outcome("cut"))
        for backend in member.backends:
            self._judge(backend)
