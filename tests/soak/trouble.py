"""What happens to processes, networks and clocks during a soak, by seed."""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from proxy.scheduling.shared.follower import BEAT
from proxy.scheduling.shared.replica import LEASE

from .scene import Member, Scene

EVERY = 12.0  # seconds between two troubles, on average
LONGEST = 115.0  # seconds for which a process is stopped; after 120, a gateway's worker is replaced
LATE = 0.9  # the share of a soak after which a single gateway is stopped and started
JUMP = 3600  # seconds by which a clock is wrong, at most
ENDED = 20.0  # seconds until answers that were under way have ended


class Break(NamedTuple):
    """When leases of a gateway (of all: "") may have ended before its answers on a backend (on any:
    ""): it was stopped, or cut off from Redis or that backend, or Redis was away."""

    host: str
    backend: str
    begun: float
    ended: float


class Nobody(Exception):
    """Too many have a trouble already, or it is too early."""


class Trouble(threading.Thread):
    """Makes trouble until `stop`; then everything is well again. `counts` says how often which,
    `failure` why it could not continue, `breaks` when leases may have ended early."""

    def __init__(self, scene: Scene, seed: int, seconds: float) -> None:
        super().__init__(name="trouble")
        self._scene = scene
        self._rng = random.Random(f"{seed}/trouble")
        several = len(scene.members) > 1
        self._every = min(EVERY / 2 if several else EVERY, seconds / 8)
        self._longest = min(LONGEST, seconds / 4)
        self._late = time.monotonic() + LATE * seconds
        self._stopped = threading.Event()
        self.counts: Counter[str] = Counter()
        self.failure = ""
        self.breaks: list[Break] = []
        self._due: dict[str, tuple[float, Callable[[], None]]] = {}  # times of repairs, by name
        self._makers = self._of_several() if several else self._of_one()  # each with its share

    def _of_one(self) -> dict[str, tuple[int, Callable[[], None]]]:
        return {
            "a backend is killed": (8, lambda: self._kill(self._of_a_model(1))),
            "a backend hangs": (3, self._hang),
            "all backends of a model are killed": (2, lambda: self._kill(self._of_a_model(2))),
            "a backend is removed and added by SIGHUP": (3, self._reload),
            "SIGHUP with an invalid file": (1, self._invalid),
            "the key file changes, and SIGHUP": (2, self._keys),
            "Redis is killed": (2, lambda: self._redis(1, 6)),
            "Redis is away for half a minute": (1, lambda: self._redis(30, 30)),
            "a worker is stopped for some seconds": (2, self._suspend),
            "the database is locked for some seconds": (2, self._lock),
            "the gateway is stopped and started": (4, self._restart),
        }

    def _of_several(self) -> dict[str, tuple[int, Callable[[], None]]]:
        return {
            "a gateway is killed": (3, self._crash),
            "a gateway is stopped, for up to two minutes": (3, self._suspend_gateway),
            "a backend is killed": (3, lambda: self._kill(self._stubs())),
            "a backend is stopped, for up to two minutes": (2, self._stop_stub),
            "the network between a gateway and Redis is cut": (3, self._cut_redis),
            "the network between a gateway and four backends is cut": (3, self._cut_backends),
            "the clock of a gateway jumps, by up to an hour": (3, self._jump),
            "Redis is killed and comes back empty": (2, lambda: self._redis(1, 10)),
            "the gateways are upgraded, one after the other": (1, self._upgrade),
        }

    def run(self) -> None:
        try:
            while not self._stopped.wait(self._rng.uniform(0.5, 1.5) * self._every):
                self._mend(time.monotonic())
                shares = [share for share, _ in self._makers.values()]
                what = self._rng.choices([*self._makers], shares)[0]
                if what.startswith("Redis") and self._scene.redis is None:
                    continue
                with contextlib.suppress(Nobody):
                    self._makers[what][1]()
                    self.counts[what] += 1
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
        finally:
            self._mend(math.inf)

    def stop(self) -> None:
        """Mends what is broken, and ends."""
        self._stopped.set()
        self.join()

    def _wait(self, least: float, most: float) -> None:
        self._stopped.wait(self._rng.uniform(least, most))

    def _of_a_model(self, count: int) -> list[str]:
        stubs = [name for name in self._scene.backends if name.startswith("stub")]
        others = [name for name in self._scene.backends if name not in stubs]
        return self._rng.sample(self._rng.choice([stubs, others]), count)

    def _kill(self, names: list[str]) -> None:
        chosen = [self._scene.backends[name] for name in names]
        for backend in chosen:
            backend.kill()
        self._wait(1, 8)
        for backend in chosen:
            backend.start()  # type: ignore[attr-defined]

    def _hang(self) -> None:
        backend = self._scene.backends[self._rng.choice([*self._scene.backends])]
        backend.send(signal.SIGSTOP)
        self._wait(1, 6)
        backend.send(signal.SIGCONT)

    def _reload(self) -> None:
        name = self._rng.choice([*self._scene.backends])
        self._scene.write_config(frozenset([name]))
        self._scene.hang_up()
        self._wait(2, 6)
        self._scene.write_config(frozenset())
        self._scene.hang_up()

    def _invalid(self) -> None:
        self._scene.write_config(frozenset(), broken=True)
        self._scene.hang_up()
        self._wait(1, 2)
        self._scene.write_config(frozenset())
        self._scene.hang_up()

    def _keys(self) -> None:
        """Keys count from the next start on, so those that are in use must stay valid."""
        self._scene.write_keys(f"eve soak-key-eve-{self._rng.randrange(10**9):010}")
        self._scene.hang_up()
        self._wait(1, 3)
        self._scene.write_keys()
        self._scene.hang_up()

    def _redis(self, least: float, most: float) -> None:
        redis = self._scene.redis
        assert redis is not None
        begun = time.monotonic()
        redis.kill()
        self._wait(least, most)
        redis.start()
        self.breaks.append(Break("", "", begun, time.monotonic() + ENDED))

    def _suspend(self) -> None:
        """Stop a worker for seconds, like a laptop in standby or `docker pause`. Meanwhile, the
        other workers reclaim its leases and append to the shared log."""
        worker = self._rng.choice(self._scene.workers)
        os.kill(worker, signal.SIGSTOP)
        self._wait(3, 15)
        os.kill(worker, signal.SIGCONT)

    def _lock(self) -> None:
        """As a slow disk, or a backup by another program, does."""
        file = self._scene.folder / "data" / "slotproxy.db"
        with contextlib.closing(sqlite3.connect(file, timeout=5, isolation_level=None)) as database:
            database.execute("begin exclusive")
            self._wait(1, 8)

    def _restart(self) -> None:
        """Late, so that a gateway of one age shows how its memory grows."""
        if time.monotonic() < self._late:
            raise Nobody
        self._scene.members[0].restart()

    # of several gateways: some troubles last while others come

    def _mend(self, until: float) -> None:
        for name, (at, mend) in tuple(self._due.items()):
            if at <= until:
                del self._due[name]
                mend()

    def _later(self, name: str, mend: Callable[[], None]) -> None:
        self._due[name] = time.monotonic() + self._rng.uniform(0.1, 1) * self._longest, mend

    def _gateway(self) -> Member:
        well = [member for member in self._scene.members if member.name not in self._due]
        if len(well) <= 2:
            raise Nobody
        return self._rng.choice(well)

    def _stubs(self, count: int = 1) -> list[str]:
        well = [name for name in self._scene.backends if name not in self._due]
        if len(well) < len(self._scene.backends) // 2 + count:
            raise Nobody
        return self._rng.sample(well, count)

    def _crash(self) -> None:
        member = self._gateway()
        member.crash()
        self._wait(1, 5)
        member.again()

    def _suspend_gateway(self) -> None:
        member, begun = self._gateway(), time.monotonic()
        member.suspend()

        def mend() -> None:
            member.resume()
            self._broke(member, "", begun)

        self._later(member.name, mend)

    def _stop_stub(self) -> None:
        (name,) = self._stubs()
        backend = self._scene.backends[name]
        backend.send(signal.SIGSTOP)
        self._later(name, lambda: backend.send(signal.SIGCONT))

    def _cut_redis(self) -> None:
        assert self._scene.redis is not None
        self._cut({"": self._scene.redis.port})

    def _cut_backends(self) -> None:
        backends = self._scene.backends
        self._cut({name: backends[name].port for name in self._stubs(4)})  # type: ignore[attr-defined]

    def _cut(self, ports: dict[str, int]) -> None:
        """Between a gateway and the servers on these ports, by name; "" is Redis."""
        member, begun = self._gateway(), time.monotonic()
        relay = member.relay
        assert relay is not None
        relay.cut(*ports.values())

        def mend() -> None:
            relay.cut()
            for name in ports:
                self._broke(member, name, begun)

        self._later(member.name, mend)

    def _broke(self, member: Member, backend: str, begun: float) -> None:
        assert member.relay is not None
        host, now = member.relay.host, time.monotonic()
        if backend or now > begun + LEASE - BEAT:
            self.breaks.append(Break(host, backend, begun, now + ENDED))

    def _jump(self) -> None:
        self._gateway().set_clock(self._rng.randrange(-JUMP, JUMP))

    def _upgrade(self) -> None:
        self._mend(math.inf)
        for member in self._scene.members:
            member.restart()
            self._wait(1, 3)
