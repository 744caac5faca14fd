"""The processes of a soak: Redis, model servers that die and come back, and the gateway."""

from __future__ import annotations

import http.client
import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests import redis_servers
from tests.integration.child_processes import children, command
from tests.redis_servers import RedisServer
from tools import made_up_model, servers
from tools.processes import Child, Gateway, ModelServer, ask, held_port

from .questions import STUB, TINY

KEYS = {"ann": "soak-key-ann-0123456789", "bob": "soak-key-bob-0123456789"}
LIMITED = "bob"  # the key with limits: more places and tokens than it can use
LIMITS = 'max_parallel_requests=64 budget_limits=[{"unit":"tokens","max_budget":1000000000}]'
STOPPING = 60.0  # seconds for a stop
PACE = 60  # tokens a second of the paced stub; the other sends as fast as it can
# Snapshots of the shared state are so frequent that a worker that is stopped misses some, as one
# that sleeps for an hour does.
OFTEN = """
import sys
from proxy.scheduling.shared import follower
follower.EVERY = 16
from proxy.__main__ import main
sys.exit(main())
"""
FLAGS = (
    "--queue-timeout 30 --timeout 20 --health-interval 2"
    " --wait-for-backend 10 --metrics --max-queue 128"
).split()


class Stub(Child):
    """A stub on a port that it keeps."""

    def __init__(self, folder: Path, number: int, pace: float) -> None:
        self.port = held_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._pace = pace
        words = ["--slots", "8", "--port", str(self.port)]
        command = [sys.executable, "-u", "-m", "benchmarks.stub", *words]
        super().__init__(command, folder / f"stub-{number}.log")
        self.name = f"stub-{number}"

    def start(self) -> None:
        self.launch()
        end = time.monotonic() + 30
        while ask(f"{self.url}/pace/{self._pace:g}")[0] != 200:
            if not self.alive or time.monotonic() > end:
                raise self.fail("did not start")
            time.sleep(0.05)


class Scene:
    """Everything that runs. `backends` by name; two serve each model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("tmp", "data"):
            (folder / name).mkdir(exist_ok=True)
        self.keys = dict(KEYS)
        self._config = folder / "slotproxy.toml"
        self._key_file = folder / "keys"
        self.backends: dict[str, Child] = {
            "stub-1": Stub(folder, 1, PACE),
            "stub-2": Stub(folder, 2, 0),
        }
        for name in ("llama-2023", "llama-2026"):
            binary = servers.find(name) or servers.find("llama-2023")
            if binary is None:
                raise RuntimeError(f"{name} is not built: python -m tools.servers build {name}")
            log = folder / f"{name}.log"
            self.backends[name] = ModelServer(name, binary, made_up_model.cached(), log, ctx=8192)
        found = redis_servers.installed()
        self.redis = RedisServer(found[0], folder) if found else None
        self.write_keys()
        self.write_config(frozenset())
        flags = ["--config", str(self._config), "--api-key-file", str(self._key_file)]
        flags += ["--no-local-embeddings", "--data", str(folder / "data"), *FLAGS]
        if self.redis is not None:
            flags += ["--workers", "2", "--state", self.redis.url]
        env = {"TMPDIR": str(folder / "tmp")}
        self.gateway = Gateway(
            flags, folder / "gateway.log", held_port(), env=env, python=("-W", "error")
        )
        at = self.gateway.command.index("-m")
        self.gateway.command[at : at + 2] = ["-c", OFTEN]
        self.away = threading.Event()  # while the gateway is stopped
        self.starts = 0

    def __enter__(self) -> Scene:
        try:
            if self.redis is not None:
                self.redis.start()
            for one in self.backends.values():
                one.start()  # type: ignore[attr-defined]
            self.gateway.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.gateway.stop()
        for one in (*self.backends.values(), self.redis):
            if one is not None:
                one.kill()

    def restart(self) -> None:
        """Stop the gateway as an operator does, and start it again behind the same address."""
        self.away.set()
        code = self.gateway.stop(seconds=STOPPING)
        if code:
            raise RuntimeError(f"the gateway ended with {code}")
        self.gateway.start()
        self.starts += 1
        self.away.clear()

    @property
    def workers(self) -> list[int]:
        return sorted(pid for pid in children(self.gateway.pid) if "proxy" in command(pid))

    def write_config(self, without: frozenset[str], *, broken: bool = False) -> None:
        lines = []
        for name, one in self.backends.items():
            model = STUB if name.startswith("stub") else TINY
            if name not in without:
                url = one.url  # type: ignore[attr-defined]
                lines += ["[[backend]]", f'name = "{name}"', f'url = "{url}"', f'model = "{model}"']
        if broken:
            lines += ["[[backend]]", "url = 7"]
        self._config.write_text("\n".join([f'default_model = "{TINY}"', *lines, ""]))

    def write_keys(self, *more: str) -> None:
        limits = {LIMITED: LIMITS}
        lines = [
            f"{name} {key} group=all {limits.get(name, '')}" for name, key in self.keys.items()
        ]
        self._key_file.write_text("\n".join([*lines, *more, ""]))
        self._key_file.chmod(0o600)

    def hang_up(self) -> None:
        self.gateway.send(signal.SIGHUP)

    def get(self, path: str, name: str = next(iter(KEYS))) -> Any:
        """An answer of the gateway to the key of this name, as JSON. Raises ValueError."""
        at = self.gateway.url.removeprefix("http://")
        connection = http.client.HTTPConnection(at, timeout=30)
        try:
            headers = {"Authorization": f"Bearer {self.keys[name]}"}
            connection.request("GET", path, headers=headers)
            return json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException) as error:
            raise ValueError(str(error)) from error
        finally:
            connection.close()
