"""Scripted fakes for our own interfaces: a driver that plays batches, and an app around it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from flask import Flask
from flask.testing import FlaskClient

from proxy.app import create_app
from proxy.backends.driver import Capabilities, Driver, OnCapabilities, ignore
from proxy.backends.pools import Backend
from proxy.config import Settings
from proxy.core.events import Batch, Finished, Order, Started, TextDelta
from proxy.core.task import Task
from proxy.core.usage import Usage
from proxy.errors import BackendDown, GatewayError
from proxy.runtime.cancel import Cancel
from proxy.web.fastpath import Application
from proxy.web.services import EXTENSION, Services
from tests.apps import app_on

if TYPE_CHECKING:
    from proxy.store.ledger import Ledger  # imports SQLAlchemy

T = TypeVar("T")
CAPS = Capabilities(dialect="2023", slots=2, n_ctx=2048, models=("scripted",))
Script = Sequence[Batch | GatewayError | Callable[[], object]]


def say(*pieces: str, reason: str = "stop", usage: Usage = Usage(7, 3, 2)) -> list[Batch]:  # noqa: B008
    """A whole answer: one batch per piece."""
    batches: list[Batch] = [[Started(slot=0)]]
    batches += [[TextDelta(piece)] for piece in pieces]
    batches.append([Finished(reason=reason, usage=usage, slot=0)])  # type: ignore[arg-type]
    return batches


class ScriptedRun:
    """Plays a script; errors in it are raised and functions called at their place. A piece of
    text is a token."""

    slot = 0

    def __init__(self, script: Script) -> None:
        self._script = script
        self._tokens = 0
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[Batch]:
        for step in self._script:
            if isinstance(step, GatewayError):
                raise step
            if callable(step):
                step()
                continue
            self._tokens += sum(e.pieces for e in step if isinstance(e, TextDelta))
            yield list(step)

    def usage(self) -> Usage:
        return Usage(7, self._tokens, 0)

    def close(self) -> None:
        self.closed.set()


class ScriptedDriver(Driver):
    """A backend that plays a script. `tasks` are those it received; a token is a character."""

    def __init__(self, script: Script = (), caps: Capabilities = CAPS, up: bool = True) -> None:
        self.script: Script = script or say("Hel", "lo")
        self.caps = caps
        self.up = up
        self.tasks: list[Task] = []
        self.runs: list[ScriptedRun] = []

    def probe(self, deadline: float, learned: OnCapabilities = ignore) -> Capabilities:
        if not self.up:
            raise BackendDown("the backend is not responding")
        return self.caps

    def alive(self) -> bool:
        return self.up

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> ScriptedRun:
        run = ScriptedRun(self.script)
        self.tasks.append(task)
        self.runs.append(run)  # choices of other threads append theirs
        return run

    def tokenize(self, text: str, special: bool = False, cancel: Cancel | None = None) -> list[int]:
        return [ord(c) for c in text]

    def detokenize(self, tokens: list[int]) -> str:
        return "".join(map(chr, tokens))

    def close(self) -> None:
        pass


class ScriptsInTurn(ScriptedDriver):
    """Plays one script after the other, then "Hello". An error instead of a script is raised as the
    run starts."""

    def __init__(self, *scripts: Script | GatewayError, caps: Capabilities = CAPS) -> None:
        super().__init__(say("Hel", "lo"), caps)
        self.scripts = list(scripts)

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> ScriptedRun:
        script = self.scripts.pop(0) if self.scripts else self.script
        if isinstance(script, GatewayError):
            self.tasks.append(task)
            raise script
        run = super().stream(task, slot, caps, cancel)
        run._script = script
        return run


def make_app(*drivers: ScriptedDriver, **settings: object) -> Flask:
    """An app on these drivers, looked at once already; it waits for none that is down. Its hooks
    and views may not be changed (see tests/apps.py)."""
    return _looked_at(app_on(*_arguments(drivers, settings)))


def make_own_app(*drivers: ScriptedDriver, **settings: object) -> Application:
    """As ``make_app``, and the test may change the app."""
    backends, wanted = _arguments(drivers, settings)
    return cast(Application, _looked_at(create_app(wanted, backends)))


# The local embedding model would be in every list of models, and start with the first document.
DEFAULTS = {"wait_for_backend": 0.0, "local_embeddings": False}


def _arguments(
    drivers: Sequence[ScriptedDriver], settings: dict[str, Any]
) -> tuple[list[Backend], Settings]:
    backends = [Backend(f"b{i}", f"test://{i}", driver) for i, driver in enumerate(drivers)]
    places = {"data", "database", "state"} & settings.keys()
    quick = {} if places else {"ledger_days": 0}  # a ledger would open a database in each app
    return backends, Settings(**{**DEFAULTS, **quick, **settings})


def _looked_at(app: Flask) -> Flask:
    registry = services_of(app).gateway.registry
    wait_until(lambda: registry.settled)
    return app


def services_of(app: Flask) -> Services:
    services: Services = app.extensions[EXTENSION]
    return services


def ledger_of(app: Flask) -> Ledger:
    """Its ledger, with a row for each request that has ended."""
    writer = services_of(app).ledger
    assert writer is not None
    assert writer.flush()
    return writer.ledger


def checked(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches, with their order checked as in the gateway."""
    order = Order()
    for batch in batches:
        order.see(batch)
        yield batch
    order.end()


def client(*drivers: ScriptedDriver, **settings: object) -> FlaskClient:
    return make_app(*(drivers or (ScriptedDriver(),)), **settings).test_client()


def at_once(work: Callable[[int], T], workers: int) -> list[T]:
    """The results of `work` for each number, all begun at the same moment. Raises its errors."""
    start = threading.Barrier(workers)

    def run(number: int) -> T:
        start.wait(30)
        return work(number)

    with ThreadPoolExecutor(workers) as pool:
        return [*pool.map(run, range(workers))]


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Polls until `condition` holds, for work of another thread without a signal."""
    end = time.monotonic() + seconds
    pause = 0.002
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(pause)
        pause = min(1.2 * pause, 0.05)


def gone(pid: int) -> bool:
    """Whether the process has ended; true also for a zombie."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def key_file(folder: Path, text: str) -> str:
    """A file of keys that only its owner may read."""
    file = folder / "keys"
    file.write_text(text, encoding="utf-8")
    file.chmod(0o600)
    return str(file)
