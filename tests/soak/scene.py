"""The processes of a soak: Redis, model servers that die and come back, and the gateway."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import redis_servers
from tests.integration.child_processes import children, command
from tests.redis_servers import RedisServer
from tools import made_up_model, servers
from tools.processes import Child, Gateway, ModelServer, ask, held_port

from .questions import HOSTED, STUB, TINY

KEYS = {"ann": "soak-key-ann-0123456789", "bob": "soak-key-bob-0123456789"}
LIMITED = "bob"  # the key with limits: more places and tokens than it can use
LIMITS = 'max_parallel_requests=64 budget_limits=[{"unit":"tokens","max_budget":1000000000}]'
CAPTURED = "ann"  # the key whose requests are captured, with their bodies
STOPPING = 60.0  # seconds for a stop
PACE = 60  # tokens a second of the paced stub; the other sends as fast as it can
FEW = 20  # the same of all stubs before several gateways
# Snapshots of the shared state are so frequent that a worker that is stopped misses some, as one
# that sleeps for an hour does. The time of day is the system's plus the seconds in a file.
# The follower is imported where the gateway imports it itself: after gevent has replaced threads.
OFTEN = """
import os, sys, time
from pathlib import Path
from proxy.server.worker import Worker
load_wsgi = Worker.load_wsgi
def load_with_frequent_snapshots(worker):
    from proxy.scheduling.shared import follower
    follower.EVERY = 16
    load_wsgi(worker)
Worker.load_wsgi = load_with_frequent_snapshots
real, real_ns, offset = time.time, time.time_ns, Path(os.environ["SOAK_CLOCK"])
time.time = lambda: real() + int(offset.read_text() or 0)
time.time_ns = lambda: real_ns() + 10**9 * int(offset.read_text() or 0)
from proxy.__main__ import main
sys.exit(main())
"""
FLAGS = (
    "--queue-timeout 30 --timeout 20 --health-interval 2"
    " --wait-for-backend 10 --metrics --max-queue 128"
).split()


def _start(child: Child, is_ready: Callable[[], bool]) -> None:
    child.launch()
    end = time.monotonic() + 30
    while not is_ready():
        if not child.alive or time.monotonic() > end:
            raise child.fail("did not start")
        time.sleep(0.05)


class Stub(Child):
    """A stub on a port that it keeps."""

    def __init__(self, folder: Path, number: int, pace: float, slots: int) -> None:
        self.port = held_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._pace = pace
        words = ["--slots", f"{slots}", "--port", str(self.port)]
        command = [sys.executable, "-u", "-m", "benchmarks.stub", *words]
        super().__init__(command, folder / f"stub-{number}.log")
        self.name = f"stub-{number}"

    def start(self) -> None:
        _start(self, lambda: ask(f"{self.url}/pace/{self._pace:g}")[0] == 200)


class Relay(Child):
    """The network of one gateway. `host` is its address, as servers see it; `ports` are those on
    which it reaches theirs."""

    def __init__(self, folder: Path, number: int, ports: list[int]) -> None:
        self.host = f"127.0.0.{10 + number}"
        self.ports = {port: held_port() for port in ports}
        self._cuts = folder / f"cuts-{number}"
        self._cuts.touch()
        links = [f"{own}:{port}" for port, own in self.ports.items()]
        words = ["-m", "tests.soak.relay", str(self._cuts), self.host, *links]
        super().__init__([sys.executable, "-u", *words], folder / f"relay-{number}.log")

    def start(self) -> None:
        _start(self, lambda: "ready" in self.log)

    def cut(self, *ports: int) -> None:
        """Let nothing pass to and from these ports, and everything to others."""
        self._cuts.write_text("\n".join(map(str, ports)))


class Host(Gateway):
    """A gateway that starts models itself, with memory for one of them: requests in turns for
    both make it swap them. Others reach it as a backend, since workers of one host nothing."""

    def __init__(self, folder: Path, binary: Path) -> None:
        lines = []
        for seed, name in enumerate(HOSTED):
            model = made_up_model.write(folder / f"{name}.gguf", seed=seed)
            words = f"--host 127.0.0.1 --port ${{PORT}} -m {model} -np 2 -c 4096 -t 1 -cb"
            lines += ["[[model]]", f'name = "{name}"', 'memory = "60MiB"']
            lines += [f"folder = '{folder}'", f"command = '{binary} {words}'"]
        config = folder / "host.toml"
        config.write_text("\n".join(lines))
        flags = f"--config {config} --data {folder / 'host'} --no-local-embeddings --memory 100MiB"
        super().__init__(flags.split(), folder / "host.log", held_port(), python=("-W", "error"))
        self.name = "host"

    @property
    def workers(self) -> list[int]:
        return [pid for pid in children(self.pid) if "proxy" in command(pid)]


class Member(Gateway):
    """A gateway of the scene. `away` while it cannot answer, last from `gone` to `back`; `is_down`
    while it does not run. `kills`: when it was killed, by the system's monotonic clock and by its
    own time of day."""

    def __init__(self, folder: Path, name: str, flags: list[str], relay: Relay | None) -> None:
        self._clock = folder / f"{name}.clock"
        self.relay = relay
        self.away = threading.Event()
        self.back = self.gone = 0.0
        self.is_down = False
        self.starts = 0
        self.kills: list[tuple[float, float]] = []
        self.set_clock(0)
        env = {"TMPDIR": str(folder / "tmp"), "SOAK_CLOCK": str(self._clock)}
        python = ("-W", "error")
        super().__init__(flags, folder / f"{name}.log", held_port(), env=env, python=python)
        self.name, self.at = name, f"127.0.0.1:{self.port}"
        module = self.command.index("-m")
        self.command[module : module + 2] = ["-c", OFTEN]

    @property
    def workers(self) -> list[int]:
        return sorted(pid for pid in children(self.pid) if "proxy" in command(pid))

    def set_clock(self, ahead: int) -> None:
        self._clock.write_text(str(ahead))

    def was_away(self, since: float) -> bool:
        return self.away.is_set() or self.back >= since

    def crash(self) -> None:
        self._leave()
        self.is_down = True
        self.kills.append((time.monotonic(), time.time() + int(self._clock.read_text())))
        os.killpg(self.pid, signal.SIGKILL)
        self.kill()

    def again(self) -> None:
        self.start()
        self.starts += 1
        self.is_down = False
        self._return()

    def restart(self) -> None:
        """Stop it as an operator does, and start it again behind the same address."""
        self._leave()
        self.is_down = True
        code = self.stop(seconds=STOPPING)
        if code:
            raise RuntimeError(f"{self.name} ended with {code}")
        self.again()

    def suspend(self) -> None:
        self._leave()
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)
        self._return()

    def _leave(self) -> None:
        self.gone = time.monotonic()
        self.away.set()

    def _return(self) -> None:
        self.back = time.monotonic()
        self.away.clear()


class Scene:
    """Everything that runs. `backends` by name. A single gateway has two stubs and two servers of
    made-up weights, shares Redis with itself, if there is one, and has models that a gateway
    behind it swaps; several have a worker each."""

    def __init__(self, folder: Path, gateways: int = 1, stubs: int = 2) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("tmp", "data"):
            (folder / name).mkdir(exist_ok=True)
        self.keys = dict(KEYS)
        self._key_file = folder / "keys"
        installed = redis_servers.installed()
        self.redis = RedisServer(installed[0], folder) if installed else None
        several = gateways > 1
        if several and self.redis is None:
            raise RuntimeError("several gateways share a Redis: apt-get install redis-server")
        if self.redis is not None:
            self.redis.command += ["--protected-mode", "no"]  # relays have other addresses
        self.host: Host | None = None
        paces, slots = ([FEW], 2) if several else ([PACE, 0], 8)
        self.backends: dict[str, Child] = {
            f"stub-{n + 1}": Stub(folder, n + 1, paces[n % len(paces)], slots) for n in range(stubs)
        }
        for name in () if several else ("llama-2023", "llama-2026"):
            binary = servers.find(name) or servers.find("llama-2023")
            if binary is None:
                raise RuntimeError(f"{name} is not built: python -m tools.servers build {name}")
            log = folder / f"{name}.log"
            self.backends[name] = ModelServer(name, binary, made_up_model.cached(), log, ctx=8192)
            self.host = Host(folder, binary) if self.host is None else self.host
        self.members = [self._member(n, several) for n in range(gateways)]
        self.write_keys()
        self.write_config(frozenset())

    def _member(self, number: int, several: bool) -> Member:
        name = f"gateway-{number + 1}" if several else "gateway"
        flags = ["--config", str(self._config(name)), "--api-key-file", str(self._key_file)]
        flags += ["--no-local-embeddings", "--data", str(self.folder / "data"), *FLAGS]
        if self.redis is None:
            return Member(self.folder, name, flags, None)
        if not several:
            flags += ["--workers", "2", "--state", self.redis.url]
            return Member(self.folder, name, flags, None)
        ports = [child.port for child in (self.redis, *self.backends.values())]  # type: ignore[attr-defined]
        relay = Relay(self.folder, number, ports)
        flags += ["--state", f"redis://127.0.0.1:{relay.ports[self.redis.port]}/0"]
        return Member(self.folder, name, flags, relay)

    def __enter__(self) -> Scene:
        try:
            for child in self._others():
                child.start()  # type: ignore[attr-defined]
            for member in self.members:
                member.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            member.stop()
        for child in self._others():
            child.kill()

    def _others(self) -> list[Child]:
        relays = [member.relay for member in self.members]
        others = (self.redis, *self.backends.values(), self.host, *relays)
        return [child for child in others if child is not None]

    @property
    def is_down(self) -> bool:
        """Whether a gateway does not run."""
        return any(member.is_down for member in self.members)

    @property
    def starts(self) -> int:
        return sum(member.starts for member in self.members)

    @property
    def workers(self) -> list[int]:
        gateways: list[Member | Host] = [*self.members, *([self.host] if self.host else [])]
        return [pid for gateway in gateways for pid in gateway.workers]

    def _config(self, name: str) -> Path:
        return self.folder / f"{name}.toml"

    def write_config(self, without: frozenset[str], *, broken: bool = False) -> None:
        for member in self.members:
            lines = [f'default_model = "{TINY if "llama-2023" in self.backends else STUB}"']
            for name, backend in self.backends.items():
                model = STUB if name.startswith("stub") else TINY
                port = backend.port  # type: ignore[attr-defined]
                url = f"http://127.0.0.1:{member.relay.ports[port] if member.relay else port}"
                if name not in without:
                    lines += ["[[backend]]", f'name = "{name}"', f'url = "{url}"']
                    lines.append(f'model = "{model}"')
            if self.host is not None:
                lines += ["[[backend]]", 'name = "host"', f'url = "{self.host.url}"']
            if broken:
                lines += ["[[backend]]", "url = 7"]
            self._config(member.name).write_text("\n".join([*lines, ""]))

    def write_keys(self, *more: str) -> None:
        words = {LIMITED: LIMITS, CAPTURED: "capture=all"}
        lines = [f"{name} {key} group=all {words.get(name, '')}" for name, key in self.keys.items()]
        self._key_file.write_text("\n".join([*lines, *more, ""]))
        self._key_file.chmod(0o600)

    def hang_up(self) -> None:
        for member in self.members:
            member.send(signal.SIGHUP)

    def get(self, path: str, name: str = next(iter(KEYS)), member: Member | None = None) -> Any:
        """An answer of a gateway, by default the first, to the key of this name, as JSON. Raises
        ValueError."""
        connection = http.client.HTTPConnection((member or self.members[0]).at, timeout=30)
        try:
            headers = {"Authorization": f"Bearer {self.keys[name]}"}
            connection.request("GET", path, headers=headers)
            return json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException) as error:
            raise ValueError(str(error)) from error
        finally:
            connection.close()
