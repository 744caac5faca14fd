"""A state machine of the registry and the real scheduler: reloads, crashes, restarts, model changes
and drains during answers, in any order.

No threads: a health check is a step (`Registry.check`), and a server is a record that a scripted
driver reads.
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

from proxy.backends.driver import Capabilities, OnCapabilities, ignore
from proxy.backends.pools import Backend
from proxy.backends.registry import Registry
from proxy.config import BackendConfig, Secret, SettingsError
from proxy.errors import AnswerCut, BackendDown, NoBackend, UpstreamTimeout
from proxy.runtime.cancel import Cancel
from proxy.scheduling.lease import Lease, Outcome, Ticket
from proxy.scheduling.prefix import chain_of
from proxy.scheduling.scheduler import LocalScheduler
from proxy.scheduling.state import SlotRequest
from tests.fakes import ScriptedDriver
from tests.thorough import share
from tests.unit.scheduling.fakes import Clock, check_slots

URLS = ("test://1", "test://2", "test://3")
MODELS = ("m", "other")
ENDS = ("whole", "cut", "busy", "failed", "unused")
FAULTS = (BackendDown("gone"), UpstreamTimeout("silent"), AnswerCut("broke off"))
Draw = Callable[[st.SearchStrategy[Any]], Any]
PATIENCE = 1e6  # seconds: no request times out


def outcome(end: Any, slot: int) -> Outcome:
    return Outcome(end=end, slot=slot, prompt=50, cached=10, completion=5, evaluating=0.1)


class Server:
    """`slots` 0: the server does not report them."""

    def __init__(self) -> None:
        self.alive = True
        self.model = "m"
        self.slots = 2


class Driver(ScriptedDriver):
    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.closed = 0

    def probe(self, deadline: float, learned: OnCapabilities = ignore) -> Capabilities:
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
    """Few variants, so that a reload often names a current or recent backend."""
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
        self.scheduler = LocalScheduler(
            self.clock, max_queue=10**6, queue_timeout=PATIENCE, wait_for_backend=PATIENCE
        )
        self.registry = Registry([], self.scheduler)
        self.monitored: list[Backend] = []  # in production each has a thread
        self.registry._start = self.monitored.append  # type: ignore[method-assign, assignment]
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
            set_model=config.model,
            set_slots=config.slots,
            weight=config.weight,
            config=config,
        )

    def make_some(self, count: int) -> Callable[[BackendConfig], Backend]:
        """A factory that makes `count` backends and then raises."""

        def make(config: BackendConfig) -> Backend:
            nonlocal count
            if count == 0:
                raise SettingsError("it cannot be used")
            count -= 1
            return self.make(config)

        return make

    # the operator

    @initialize()
    def begin(self) -> None:
        self.reload_to(
            [BackendConfig(name=name, url=url) for name, url in zip("ab", URLS, strict=False)]
        )
        for backend in tuple(self.monitored):
            self.check(backend)

    @rule(data=st.data())
    def act(self, data: st.DataObject) -> None:
        """One rule for all actions, equally likely: hypothesis would skip some of several rules."""
        actions = [
            *(self.ask, self.ask, self.end, self.end, self.look, self.look, self.first_token),
            *(self.reload, self.reload_and_back, self.reload_unusable, self.live, self.start_anew),
            *(self.fail, self.leave, self.pass_time),
        ]
        data.draw(st.sampled_from(actions))(data.draw)

    def reload_to(self, wanted: list[BackendConfig]) -> None:
        self.registry.reload(wanted, self.make)
        self.configured = wanted

    def reload(self, draw: Draw) -> None:
        self.reload_to(draw(configs))

    def reload_and_back(self, draw: Draw) -> None:
        """Sometimes before any backend could be removed."""
        before = self.configured
        self.reload_to(draw(configs))
        if draw(st.booleans()):
            for backend in tuple(self.monitored):
                self.check(backend)
        self.reload_to(before)

    def reload_unusable(self, draw: Draw) -> None:
        """With a backend that cannot be made."""
        wanted, count = draw(configs), draw(st.integers(0, 1))
        before, monitored = self.registry.backends, [*self.monitored]
        made = len(self.drivers)
        try:
            self.registry.reload(wanted, self.make_some(count))
            self.configured = wanted
        except SettingsError:
            assert self.registry.backends == before
            assert self.monitored == monitored
            assert all(driver.closed for driver in self.drivers[made:])

    # servers

    def live(self, draw: Draw) -> None:
        self.servers[draw(st.sampled_from(URLS))].alive = draw(st.booleans())

    def start_anew(self, draw: Draw) -> None:
        """Mostly where answers are running, which then hang."""
        used = sorted({backend.url for _, backend in self.answers})
        url = draw(st.sampled_from(used or URLS))
        server = self.servers[url]
        server.alive, server.model = True, draw(st.sampled_from(MODELS))
        server.slots = draw(st.integers(0, 3))
        for backend in tuple(self.monitored) if draw(st.booleans()) else ():
            if backend.url == url and not backend.leaving:
                self.registry.failed(backend, BackendDown("it is starting"))
                self.check(backend)

    # the gateway

    def look(self, draw: Draw) -> None:
        many = draw(st.booleans())
        for backend in tuple(self.monitored):
            if many or draw(st.booleans()):
                self.check(backend)

    def check(self, backend: Backend) -> None:
        self.registry.check(backend)
        if backend.closed:
            self.monitored.remove(backend)
        self.collect()

    def ask(self, draw: Draw) -> None:
        """Several requests, some of which need a whole backend."""
        for _ in range(draw(st.integers(1, 3))):
            whole = draw(st.sampled_from((False, False, True)))
            model = draw(st.sampled_from(self.registry.models() or MODELS))
            prompt = "" if whole else f"conversation {draw(st.integers(0, 3))} " * 40
            chain = chain_of(prompt, (len(prompt),), model)
            request = SlotRequest(model=model, chain=chain, whole_backend=whole)
            try:
                found = self.scheduler.enter(request)
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
            lease.on_first_token(draw(st.integers(-1, 4)))

    def end(self, draw: Draw) -> None:
        if self.answers:
            lease, backend = self.answers.pop(draw(st.integers(0, len(self.answers) - 1)))
            lease.release(outcome(draw(st.sampled_from(ENDS)), draw(st.integers(-1, 4))))
            self.registry.give_back(backend)
            self.collect()

    def fail(self, draw: Draw) -> None:
        if self.answers:
            _, backend = draw(st.sampled_from(self.answers))
            self.registry.failed(backend, draw(st.sampled_from(FAULTS)))

    def leave(self, draw: Draw) -> None:
        if self.waiting:
            ticket = draw(st.sampled_from(self.waiting))
            self.waiting.remove(ticket)
            ticket.leave()

    def pass_time(self, draw: Draw) -> None:
        self.clock.now += draw(st.sampled_from((0.1, 1.0, 40.0)))
        self.collect()

    def collect(self) -> None:
        """Granted requests begin; requests for a model without backend are refused."""
        for ticket in tuple(self.waiting):
            try:
                lease = ticket.wait(Cancel(), 0.0)
            except NoBackend:
                self.waiting.remove(ticket)
                continue
            if lease is not None:
                self.waiting.remove(ticket)
                self.begin_answer(lease)

    # invariants

    @invariant()
    def busy_slots_have_leases(self) -> None:
        granted = [ticket.lease for ticket in self.waiting if ticket.lease is not None]
        check_slots(self.scheduler, [lease for lease, _ in self.answers] + granted)

    @invariant()
    def configured_backends_exist(self) -> None:
        serving = {n: b.config for n, b in self.registry.backends.items() if not b.leaving}
        assert serving == {config.name: config for config in self.configured}
        assert all(backend in self.monitored for backend in self.registry.backends.values())

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
    def no_used_backend_is_closed(self) -> None:
        for _, backend in self.answers:
            assert backend.driver.closed == 0  # type: ignore[attr-defined]
        assert all(driver.closed <= 1 for driver in self.drivers)

    def teardown(self) -> None:
        """All servers recover and every answer ends, so each waiting request gets a slot."""
        for server in self.servers.values():
            server.alive = True
        for _ in range(3):
            for backend in tuple(self.monitored):
                if backend.up and not backend.leaving:
                    self.registry._down(backend, None)  # otherwise a new model would not be noticed
                self.check(backend)
        for _ in range(3 * len(self.waiting) + 3):
            self.clock.now += 40.0
            for lease, backend in self.answers:
                lease.release(outcome("whole", lease.slot.id))
                self.registry.give_back(backend)
            self.answers.clear()
            self.collect()
        assert not self.waiting and not self.answers
        for backend in tuple(self.monitored):
            self.check(backend)
        assert self.scheduler.outstanding == 0
        assert {backend.name for backend in self.monitored} == {c.name for c in self.configured}
        assert not self.registry._replaced
        assert sum(not driver.closed for driver in self.drivers) == len(self.configured)


def test_random_reloads_and_failures_lose_no_slot_or_backend() -> None:
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=share(250), stateful_step_count=40)
    )
