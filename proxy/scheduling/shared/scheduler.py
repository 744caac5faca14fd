"""A scheduler whose table is shared: it writes what happens into the log, and hears what came of
it.

Every worker follows the log with a replica of its own; the log's order is what they agree by. So a
request costs one trip to Redis before it is placed, and the policy is the very same as in one
process. What needs no answer (a first token, a slot given back) is written without waiting.

A request for which this worker finds no backend up waits here, and is written once one is.

Without the log, requests are placed by load, by a scheduler of this process alone: no slot is asked
for by number, as others use them too, and each worker takes its part of the slots. When the log is
back, the worker joins again and forgets what slots hold where it may be wrong.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
from collections.abc import Callable

import msgspec

from ...errors import GatewayError, NoBackend, QueueFull
from ..fair import displaced
from ..lease import Lease, Outcome
from ..prefix import Chain
from ..scheduler import Scheduler
from ..state import MOST_SLOTS, Keeps, Step, Want
from ..ticket import Ticket
from ..view import View
from ..waiting import PLACE_LOST, Waiting
from . import ops
from .follower import BEAT, Follower
from .held import SharedLease, SharedTicket
from .log import RedisLog
from .ops import Facts
from .replica import Rules, Told

log = logging.getLogger("slotproxy.scheduling")

ANSWER = 2.0  # seconds within which what was written must have come back
OVERTAKEN = 0.25  # seconds until a request is written again when health was quicker than the log
OVERTAKEN_MOST = 8  # times that is tried
ALONE = "state: Redis is gone, requests are placed by load"


class SharedScheduler(Waiting):
    """As `Scheduler`, for as many processes as share the log."""

    def __init__(
        self,
        shared: RedisLog,
        clock: Callable[[], float],
        *,
        version: str,
        max_queue: int = 256,
        queue_timeout: float = 300.0,
        wait_for_backend: float = 0.0,
        groups: bool = False,
        disk: int = 0,
    ) -> None:
        self._clock = clock
        self._max_queue = max_queue
        self._queue_timeout = queue_timeout
        self._wait_for_backend = wait_for_backend
        self._alone = Scheduler(
            clock,
            max_queue=max_queue,
            queue_timeout=queue_timeout,
            wait_for_backend=wait_for_backend,
            groups=groups,
        )
        self._alone.on_stranded = lambda model: self.on_stranded(model)
        self._strayed: set[str] = set()  # backends used without the log
        self._mine: dict[str, tuple[bool | None, Facts]] = {}
        self._numbers = itertools.count(1)
        self._waiting: dict[int, SharedTicket] = {}
        self._stranded: dict[int, SharedTicket] = {}  # not written yet: no backend is up for them
        self._leases: dict[int, SharedLease] = {}
        self.on_stranded: Callable[[str], None] = lambda model: None
        self._steps: dict[int, tuple[threading.Event, list[tuple[Step, ...]]]] = {}
        rules = Rules(version, max_queue=max_queue, groups=groups, disk=disk)
        self._follower = Follower(shared, clock, rules, self)
        self._lock = self._follower.lock
        self._post = self._follower.post
        self._follower.start()

    def ready(self, seconds: float) -> bool:
        """Whether the table is shared, or will be within so many seconds."""
        return self._follower.ready(seconds)

    def close(self) -> None:
        """Tell the others, and end."""
        self._follower.close()

    @property
    def notices(self) -> tuple[str, ...]:
        return () if self._follower.up else (ALONE,)

    # what the registry tells

    def update(
        self,
        name: str,
        model: str,
        *,
        up: bool | None,
        slots: int,
        weight: float = 1.0,
        pins: bool = True,
        keeps: Keeps = "nothing",
        settles: float = 0.0,
        anew: bool = False,
        replaces: bool = False,
    ) -> None:
        with self._lock:
            facts = Facts(model, min(slots, MOST_SLOTS), weight, pins, keeps, settles)
            self._mine[name] = up, facts
            self._post(ops.Found(name, up, facts, anew, replaces))
            self._tell_alone(name, replaces)
            self._go_on()

    def mark(self, name: str, up: bool, awaits: float = 0.0) -> None:
        with self._lock:
            if name not in self._mine:
                return  # it was let go of
            self._mine[name] = up, self._mine[name][1]
            self._post(ops.Down(name, up, awaits))
            self._alone.mark(name, up, awaits)
            self._go_on()

    def drain(self, name: str) -> None:
        with self._lock:
            self._mine.pop(name, None)
            self._post(ops.Drain(name))
            self._alone.drain(name)

    def _tell_alone(self, name: str, replaces: bool = False) -> None:
        up, facts = self._mine[name]
        slots = math.ceil(facts.slots / max(1, len(self._follower.replica.members)))
        self._alone.update(
            name,
            facts.model,
            up=up,
            slots=slots,
            weight=facts.weight,
            pins=False,
            settles=facts.settles,
            replaces=replaces,
        )

    # what the gateway asks

    def chain(
        self, prompt: str | tuple[int, ...], boundaries: tuple[int, ...] = (), group: str = ""
    ) -> Chain:
        return self._alone.chain(prompt, boundaries, group)

    def enter(self, want: Want, again: bool = False) -> Lease | Ticket:
        with self._lock:
            if not self._follower.up:
                return self._enter_alone(want, again)
            now = self._clock()
            ticket = SharedTicket(self, want, self._began(want, now), next(self._numbers), again)
            if self._wait_for_backend and self._none_up(want):
                if self.waiting >= self._max_queue and not again:
                    self._make_room(want)
                self._strand(ticket, now)
                return ticket
            self._write(ticket, again)
        answered = ticket.event.wait(ANSWER)
        with self._lock:
            if not answered:
                self._follower.lose("Redis does not answer")
            if ticket.adrift:
                return self._enter_alone(want, again)
            if ticket.error is not None:
                raise ticket.error
            if ticket.lease is None:
                return ticket
            lease, ticket.lease = ticket.lease, None
            return lease

    def _make_room(self, want: Want) -> None:
        """As in the log's queue, but only among those that wait here."""
        ticket = displaced(tuple(self._stranded.values()), want.key)
        if ticket is None:
            raise QueueFull(f"{self.waiting} requests are waiting already", retry_after=1.0)
        del self._stranded[ticket.id]
        ticket.error = QueueFull(PLACE_LOST, retry_after=1.0)
        ticket.event.set()

    def _write(self, ticket: SharedTicket, again: bool) -> None:
        """By a number of its own each time: what comes of an earlier one is not mistaken for it."""
        self._stranded.pop(ticket.id, None)
        self._waiting.pop(ticket.id, None)
        ticket.id = next(self._numbers)
        ticket.stranded = None
        self._waiting[ticket.id] = ticket
        self._post(ops.come(ticket.id, ticket.want, again))

    def _views(self, want: Want) -> list[bool | None]:
        """How this worker finds the backends that it has for a request."""
        return [
            up
            for name, (up, facts) in self._mine.items()
            if facts.model == want.model and name not in want.exclude
        ]

    def _none_up(self, want: Want) -> bool:
        """Whether this worker has backends for it, and finds none of them up."""
        views = self._views(want)
        return bool(views) and not any(views)

    def _strand(self, ticket: SharedTicket, now: float) -> None:
        ticket.stranded = now
        self._stranded[ticket.id] = ticket
        self.on_stranded(ticket.want.model)

    def _may_strand(self, ticket: SharedTicket) -> bool:
        """The log knows of no backend that is up: whether to wait for one."""
        views = self._views(ticket.want)
        if not any(views):
            return bool(views) and self._wait_for_backend > 0
        ticket.overtaken += 1
        return ticket.overtaken <= OVERTAKEN_MOST

    def _go_on(self) -> None:
        """Health changed: write the requests whose backends are back, in the order they came."""
        for ticket in tuple(self._stranded.values()):
            if any(self._views(ticket.want)):
                self._write(ticket, again=False)

    def _enter_alone(self, want: Want, again: bool) -> Lease | Ticket:
        return self._alone.enter(msgspec.structs.replace(want, chain=Chain(), session=""), again)

    @property
    def _table(self) -> Scheduler:
        """What is known of the slots now."""
        return self._follower.replica.scheduler if self._follower.up else self._alone

    @property
    def outstanding(self) -> int:
        """Of this worker."""
        return len(self._leases) + self._alone.outstanding

    @property
    def waiting(self) -> int:
        """Of all workers."""
        return self._table.waiting + len(self._stranded)

    def in_flight(self, name: str) -> int:
        alone = self._alone.in_flight(name)
        return alone + (self._table.in_flight(name) if self._follower.up else 0)

    def slots(self, name: str) -> int:
        return self._table.slots(name)

    def view(self, group: str, key: str) -> View:
        with self._lock:
            if not self._follower.up:
                found = self._alone.view(group, key)
                return msgspec.structs.replace(found, state="alone")
            found = self._table.view(group, key)
            return msgspec.structs.replace(
                found, state="shared", workers=len(self._follower.replica.members)
            )

    def leaks(self, lease: Lease, outcome: Outcome) -> bool:
        return self._alone.leaks(lease, outcome)

    # for leases alone

    def ends(self, lease: SharedLease) -> None:
        self._post(ops.Ends(lease.id))

    def flows(self, lease: Lease, number: int) -> None:
        assert isinstance(lease, SharedLease)
        self._post(ops.Flows(lease.id, number))

    def steps(self, lease: Lease) -> tuple[Step, ...]:
        assert isinstance(lease, SharedLease)
        heard: tuple[threading.Event, list[tuple[Step, ...]]] = threading.Event(), []
        self._steps[lease.id] = heard
        self._post(ops.Steps(lease.id))
        heard[0].wait(ANSWER)
        self._steps.pop(lease.id, None)
        return heard[1][0] if heard[1] else ()

    def stepped(self, lease: Lease, step: Step, tokens: int, size: int, seconds: float) -> None:
        assert isinstance(lease, SharedLease)
        self._post(ops.Stepped(lease.id, step, tokens, size, seconds))

    def give_back(self, lease: Lease, outcome: Outcome) -> None:
        assert isinstance(lease, SharedLease)
        with self._lock:
            self._leases.pop(lease.id, None)
            self._post(ops.Back(lease.id, outcome))

    # for tickets alone

    def look(self, ticket: Ticket, now: float) -> float:
        assert isinstance(ticket, SharedTicket)
        with self._lock:
            if ticket.adrift and ticket.alone is None:
                found = self._enter_alone(ticket.want, True)
                if isinstance(found, Lease):
                    ticket.lease, ticket.adrift = found, False
                    return now
                ticket.alone, found.event = found, ticket.event
            if ticket.alone is not None:
                until = self._alone.look(ticket.alone, now)
                ticket.stranded = ticket.alone.stranded
                ticket.lease, ticket.alone.lease = ticket.alone.lease, None
                ticket.error = ticket.alone.error
                return until
            if ticket.id in self._stranded:
                return self._look_at_stranded(ticket, now)
            mine = self._follower.member
            known = mine.tickets.get(ticket.id) if mine is not None else None
            if known is None:
                return now + BEAT
            known.wakes = known.until  # its event wakes us if that becomes sooner
            return now + self._follower.time_left(known.until, now)

    def _look_at_stranded(self, ticket: SharedTicket, now: float) -> float:
        assert ticket.stranded is not None, "set with its place there"
        if any(self._views(ticket.want)) and ticket.overtaken <= OVERTAKEN_MOST:
            # The table said that none is up, but this worker has seen one come back meanwhile.
            if now >= ticket.stranded + OVERTAKEN:
                self._write(ticket, again=True)
            return now + OVERTAKEN
        if self._is_lost(ticket, now):
            del self._stranded[ticket.id]
            ticket.error = NoBackend("no backend of this model is up", retry_after=1.0)
            return now
        return ticket.until

    def expected_wait(self, want: Want) -> float:
        return 1.0

    def leave(self, ticket: Ticket) -> None:
        assert isinstance(ticket, SharedTicket)
        if ticket.alone is not None:
            ticket.alone.leave()
        with self._lock:
            self._stranded.pop(ticket.id, None)
            if self._waiting.pop(ticket.id, None) is not None:
                self._post(ops.Leave(ticket.id))
            lease, ticket.lease = ticket.lease, None
        if lease is not None:
            lease.release()

    def place(self, ticket: Ticket) -> int:
        assert isinstance(ticket, SharedTicket)
        if ticket.alone is not None:
            return ticket.alone.place
        with self._lock:
            mine = self._follower.member
            known = mine.tickets.get(ticket.id) if mine is not None else None
            return known.place if known is not None else 0

    # what the follower tells

    def hear(self, told: Told) -> None:
        number, news = told.id, told.news
        if isinstance(news, tuple):
            heard = self._steps.get(number)
            if heard is not None:
                heard[1].append(news)
                heard[0].set()
        elif news is None:
            if number in self._leases:
                self._leases[number].flowing = True
        else:
            self._placed(number, news)

    def _placed(self, number: int, news: Lease | Ticket | GatewayError) -> None:
        ticket = self._waiting.get(number)
        if ticket is None:
            self._post(ops.Leave(number))  # nobody waits for it any more
            return
        if isinstance(news, Ticket):
            ticket.first_place = news.first_place
            news.event = ticket.event
        elif isinstance(news, Lease) and news.backend not in self._mine:
            # It was let go of after this was written. By now the log knows.
            self._post(ops.Leave(number))
            self._write(ticket, again=True)
            return
        elif isinstance(news, Lease):
            lease = SharedLease(self, ticket.want, news.grant, news.conversation, number)
            lease.waited, lease.place = news.waited, news.place
            del self._waiting[number]
            self._leases[number] = ticket.lease = lease
        elif isinstance(news, NoBackend) and self._may_strand(ticket):
            del self._waiting[number]
            self._strand(ticket, self._clock())
        else:
            del self._waiting[number]
            ticket.error = news
        ticket.event.set()

    def joined(self) -> None:
        mine = self._follower.member
        known = {*mine.leases, *mine.tickets} if mine is not None else set()
        for number in known - {*self._leases}:  # what the log has of us, and we have no more
            self._post(ops.Leave(number))
        self._introduce(self._strayed)
        self._strayed = set()

    def forgotten(self) -> None:
        if self._mine:
            log.warning("state: the others thought this worker dead")
            self._introduce(set())
        for ticket in tuple(self._waiting.values()):
            self._write(ticket, again=True)  # its place is gone

    def _introduce(self, strayed: set[str]) -> None:
        for name, (up, facts) in self._mine.items():
            self._post(ops.Found(name, up, facts, name in strayed))

    def lost(self) -> None:
        """Who waits goes on without the log."""
        self._strayed = {*self._mine}
        for name in self._mine:
            self._tell_alone(name)
        for ticket in (*self._waiting.values(), *self._stranded.values()):
            ticket.adrift = True
            ticket.event.set()
        self._waiting.clear()
        self._stranded.clear()
