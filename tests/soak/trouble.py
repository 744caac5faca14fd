"""What happens to the processes during a soak, one thing at a time, by seed."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable

from .questions import STUB, TINY
from .scene import Scene

EVERY = 12.0  # seconds between two troubles, on average


class Trouble(threading.Thread):
    """Makes trouble until `stop`; then everything is well again. `counts` says how often which,
    `failure` why it could not go on."""

    def __init__(self, scene: Scene, seed: int, every: float = EVERY) -> None:
        super().__init__(name="trouble")
        self._scene = scene
        self._rng = random.Random(f"{seed}/trouble")
        self._every = every
        self._stopped = threading.Event()
        self.counts: Counter[str] = Counter()
        self.failure = ""
        self._makers: dict[str, tuple[int, Callable[[], None]]] = {  # each with its share
            "a backend is killed": (8, lambda: self._kill(1)),
            "a backend hangs": (3, self._hang),
            "all backends of a model are killed": (2, lambda: self._kill(2)),
            "a backend is removed and added by SIGHUP": (3, self._reload),
            "SIGHUP with an invalid file": (1, self._invalid),
            "the key file changes, and SIGHUP": (2, self._keys),
            "Redis is killed": (2, lambda: self._redis(1, 6)),
            "Redis is away for half a minute": (1, lambda: self._redis(30, 30)),
            "a worker is stopped for some seconds": (2, self._suspend),
            "the gateway is stopped and started": (1, self._scene.restart),
        }

    def run(self) -> None:
        try:
            while not self._stopped.wait(self._rng.uniform(0.5, 1.5) * self._every):
                shares = [share for share, _ in self._makers.values()]
                what = self._rng.choices([*self._makers], shares)[0]
                if what.startswith("Redis") and self._scene.redis is None:
                    continue
                self.counts[what] += 1
                self._makers[what][1]()
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"

    def stop(self) -> None:
        """Mends what is broken, and ends."""
        self._stopped.set()
        self.join()

    def _wait(self, least: float, most: float) -> None:
        self._stopped.wait(self._rng.uniform(least, most))

    def _names(self, model: str) -> list[str]:
        stubs = [name for name in self._scene.backends if name.startswith("stub")]
        return stubs if model == STUB else [n for n in self._scene.backends if n not in stubs]

    def _kill(self, count: int) -> None:
        names = self._names(self._rng.choice([STUB, TINY]))
        chosen = [self._scene.backends[name] for name in self._rng.sample(names, count)]
        for one in chosen:
            one.kill()
        self._wait(1, 8)
        for one in chosen:
            one.start()  # type: ignore[attr-defined]

    def _hang(self) -> None:
        one = self._scene.backends[self._rng.choice([*self._scene.backends])]
        one.send(signal.SIGSTOP)
        self._wait(1, 6)
        one.send(signal.SIGCONT)

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
        redis.kill()
        self._wait(least, most)
        redis.start()

    def _suspend(self) -> None:
        """Stop a worker for seconds, like a laptop in standby or `docker pause`. Meanwhile, the
        other workers reclaim its leases and append to the shared log."""
        worker = self._rng.choice(self._scene.workers)
        os.kill(worker, signal.SIGSTOP)
        self._wait(3, 15)
        os.kill(worker, signal.SIGCONT)
