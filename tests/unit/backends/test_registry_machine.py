"""The registry and the real scheduler through reloads, deaths, returns, changes of model and drains
with answers under way, in any order.

Nothing runs beside it: a health thread's look is a step (`Registry.tend`), and a server is a record
that a scripted driver asks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from proxy.backends.driver import Capabilities, Learned, ignore
from proxy.backends.registry import Backend, Registry
from proxy.cancel import Cancel
from proxy.config import BackendConfig, Secret, SettingsError
from proxy.core.task import Task
from proxy.errors import AnswerCut, BackendDown, NoBackend, UpstreamTimeout
from proxy.scheduling.lease import Lease, Outcome
from proxy.scheduling.scheduler import Scheduler
from proxy.scheduling.state import Want
from proxy.scheduling.ticket import Ticket
from tests.fakes import ScriptedDriver
from tests.thorough import share
from tests.unit.scheduling.fakes import Clock, checked_slots

URLS = ("test://1", "test://2", "test://3")
MODELS = ("m", "other")
ENDS = ("whole", "cut", "busy", "failed", "unused")
FAULTS = (BackendDown("gone"), UpstreamTimeout("silent"), AnswerCut("broke off"))
Draw = Callable[[st.SearchStrategy[Any]], Any]
PATIENCE = 1e6  # seconds: nobody is refused because it waited for long


class Server:
    """`slots` 0: it cannot tell."""

    def __init__(self) -> None:
        self.alive = True
        self.model = "m"
        self.slots = 2


class Driver(ScriptedDriver):
    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.closed = 0

    def probe(self, deadline: float, learned: Learned = ignore) -> Capabilities:
        if not self.server.alive:
            raise BackendDown("it is dead")
        server = self.server
        caps = Capabilities(dialect="2023", slots=server.slots, models=(server.model,))
        learned(caps)
        return caps

    def alive(self) -> bool:
        return self.server.alive

    def close(self) -> None:
        self.closed += 1


def variants(name: str, url: str) -> st.SearchStrategy[BackendConfig]:
    """Mostly the same, so that a reload often names what is there, or was there lately."""
    base = BackendConfig(name=name, url=url)
    changed = (
        {"url": URLS[2]},
        {"slots": 1},
        {"model": "named"},
        {"weight": 2.0},
        {"api_key": Secret("a-key-of-somebody")},
    )
    others = [msgspec.structs.replace(base, **one) for one in changed]
    return st.sampled_from([base] * 5 + others)


configs = st.tuples(
    *(st.one_of(st.none(), variants(*of), variants(*of)) for of in zip("ab", URLS, strict=False))
).map(lambda found: [config for config in found if config is not None])


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.servers = {url: Server() for url in URLS}
        self.scheduler = Scheduler(
            self.clock, max_queue=10**6, queue_timeout=PATIENCE, wait_for_backend=PATIENCE
        )
        self.registry = Registry([], self.scheduler)
        self.tended: list[Backend] = []  # each has a thread in truth
        self.registry._start = self.tended.append  # type: ignore[method-assign, assignment]
        self.drivers: list[Driver] = []
        self.configured: list[BackendConfig] = []
        self.answers: list[tuple[Lease, Backend]] = []
        self.waiting: list[Ticket] = []

    def make(self, config: BackendConfig) -> Backend:
        self.drivers.append(Driver(self.servers[config.url]))
        return Backend(
            config.name,
            config.url,
            self.drivers[-1],
            model=config.model,
            slots=config.slots,
            weight=config.weight,
            config=config,
        )

    def make_some(self, count: int) -> Callable[[BackendConfig], Backend]:
        """A maker of so many, and no more."""

        def make(config: BackendConfig) -> Backend:
            nonlocal count
            if count == 0:
                raise SettingsError("it cannot be used")
            count -= 1
            return self.make(config)

        return make

    # what an operator does

    @initialize()
    def begin(self) -> None:
        self.reload_to(
            [BackendConfig(name=name, url=url) for name, url in zip("ab", URLS, strict=False)]
        )
        for backend in tuple(self.tended):
            self.tend(backend)

    @rule(data=st.data())
    def act(self, data: st.DataObject) -> None:
        """One rule for all, each as likely: hypothesis leaves some rules of several out."""
        actions = [
            *(self.ask, self.ask, self.end, self.end, self.look, self.look, self.first_token),
            *(self.reload, self.reload_and_back, self.reload_in_vain, self.live, self.start_anew),
            *(self.fail, self.leave, self.pass_time),
        ]
        data.draw(st.sampled_from(actions))(data.draw)

    def reload_to(self, wanted: list[BackendConfig]) -> None:
        self.registry.reload(wanted, self.make)
        self.configured = wanted

    def reload(self, draw: Draw) -> None:
        self.reload_to(draw(configs))

    def reload_and_back(self, draw: Draw) -> None:
        """At times before anything had time to go."""
        before = self.configured
        self.reload_to(draw(configs))
        if draw(st.booleans()):
            for backend in tuple(self.tended):
                self.tend(backend)
        self.reload_to(before)

    def reload_in_vain(self, draw: Draw) -> None:
        """Not all of it can be used."""
        wanted, count = draw(configs), draw(st.integers(0, 1))
        before, tended = self.registry.backends, [*self.tended]
        made = len(self.drivers)
        try:
            self.registry.reload(wanted, self.make_some(count))
            self.configured = wanted
        except SettingsError:
            assert self.registry.backends == before
            assert self.tended == tended
            assert all(driver.closed for driver in self.drivers[made:])

    # what servers do

    def live(self, draw: Draw) -> None:
        self.servers[draw(st.sampled_from(URLS))].alive = draw(st.booleans())

    def start_anew(self, draw: Draw) -> None:
        """Mostly where answers are under way, which hang then."""
        used = sorted({backend.url for _, backend in self.answers})
        url = draw(st.sampled_from(used or URLS))
        server = self.servers[url]
        server.alive, server.model = True, draw(st.sampled_from(MODELS))
        server.slots = draw(st.integers(0, 3))
        for backend in tuple(self.tended) if draw(st.booleans()) else ():
            if backend.url == url and not backend.leaving:
                self.registry.failed(backend.name, BackendDown("it is starting"))
                self.tend(backend)

    # what the gateway does

    def look(self, draw: Draw) -> None:
        many = draw(st.booleans())
        for backend in tuple(self.tended):
            if many or draw(st.booleans()):
                self.tend(backend)

    def tend(self, backend: Backend) -> None:
        if not self.registry.tend(backend):
            self.tended.remove(backend)
        self.collect()

    def ask(self, draw: Draw) -> None:
        """Several requests, some of which need a backend to themselves."""
        for _ in range(draw(st.integers(1, 3))):
            whole = draw(st.sampled_from((False, False, True)))
            model = draw(st.sampled_from(self.registry.models() or MODELS))
            prompt = "" if whole else f"conversation {draw(st.integers(0, 3))} " * 40
            chain = self.scheduler.chain(prompt, (len(prompt),), model)
            want = Want(model, Task(prompt=prompt), chain=chain, whole_backend=whole)
            try:
                found = self.scheduler.enter(want)
            except NoBackend:
                assert model not in self.registry.models()
                continue
            if isinstance(found, Ticket):
                self.waiting.append(found)
            else:
                self.begin_answer(found)

    def begin_answer(self, lease: Lease) -> None:
        backend = self.registry.borrow(lease.backend)
        if backend is None or backend.caps is None:
            lease.release()
            if backend is not None:
                self.registry.give_back(backend)
        else:
            self.answers.append((lease, backend))

    def first_token(self, draw: Draw) -> None:
        if self.answers:
            lease, _ = draw(st.sampled_from(self.answers))
            lease.flows(draw(st.integers(-1, 4)))

    def end(self, draw: Draw) -> None:
        if self.answers:
            lease, backend = self.answers.pop(draw(st.integers(0, len(self.answers) - 1)))
            end: Any = draw(st.sampled_from(ENDS))
            lease.release(Outcome(end, draw(st.integers(-1, 4)), 50, 10, 5, 0.1))
            self.registry.give_back(backend)
            self.collect()

    def fail(self, draw: Draw) -> None:
        if self.answers:
            lease, backend = draw(st.sampled_from(self.answers))
            if not backend.leaving:
                self.registry.failed(lease.backend, draw(st.sampled_from(FAULTS)))

    def leave(self, draw: Draw) -> None:
        if self.waiting:
            ticket = draw(st.sampled_from(self.waiting))
            self.waiting.remove(ticket)
            ticket.leave()

    def pass_time(self, draw: Draw) -> None:
        self.clock.now += draw(st.sampled_from((0.1, 1.0, 40.0)))
        self.collect()

    def collect(self) -> None:
        """Who has got a slot begins; who waits for a model that nobody serves is refused."""
        for ticket in tuple(self.waiting):
            try:
                lease = ticket.wait(Cancel(), 0.0)
            except NoBackend:
                self.waiting.remove(ticket)
                continue
            if lease is not None:
                self.waiting.remove(ticket)
                self.begin_answer(lease)

    # what always holds

    @invariant()
    def slots_busy_are_leases_out(self) -> None:
        granted = [ticket.lease for ticket in self.waiting if ticket.lease is not None]
        checked_slots(self.scheduler, [lease for lease, _ in self.answers] + granted)

    @invariant()
    def what_is_configured_is_there(self) -> None:
        serving = {n: b.config for n, b in self.registry.backends.items() if not b.leaving}
        assert serving == {config.name: config for config in self.configured}
        assert all(backend in self.tended for backend in self.registry.backends.values())

    @invariant()
    def registry_and_scheduler_agree(self) -> None:
        known = {one.backend: one for one in self.scheduler.view("", "").backends}
        for name, backend in self.registry.backends.items():
            if backend.leaving:
                assert name not in known or known[name].draining
            else:
                one = known[name]
                assert (one.up, one.draining, one.model) == (bool(backend.up), False, backend.model)
                pools = [
                    model
                    for model in (*MODELS, "named", "default")
                    if backend in self.registry.pool(model)
                ]
                assert pools == [backend.model]

    @invariant()
    def nothing_is_closed_that_is_used(self) -> None:
        for _, backend in self.answers:
            assert backend.driver.closed == 0  # type: ignore[attr-defined]
        assert all(driver.closed <= 1 for driver in self.drivers)

    def teardown(self) -> None:
        """All servers are well again, and every answer ends: whoever waits has its turn."""
        for server in self.servers.values():
            server.alive = True
        for _ in range(3):
            for backend in tuple(self.tended):
                if backend.up and not backend.leaving:
                    self.registry._down(backend, None)  # or a new model would not be noticed
                self.tend(backend)
        for _ in range(3 * len(self.waiting) + 3):
            self.clock.now += 40.0
            for lease, backend in self.answers:
                lease.release(Outcome("whole", lease.slot.id, 50, 10, 5, 0.1))
                self.registry.give_back(backend)
            self.answers.clear()
            self.collect()
        assert not self.waiting and not self.answers
        for backend in tuple(self.tended):
            self.tend(backend)
        assert self.scheduler.outstanding == 0
        assert {backend.name for backend in self.tended} == {c.name for c in self.configured}
        assert not self.registry._replaced
        assert sum(not driver.closed for driver in self.drivers) == len(self.configured)


def test_no_slot_and_no_backend_is_lost_whatever_happens() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine, settings=settings(max_examples=share(250), stateful_step_count=40)
    )
