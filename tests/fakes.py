"""Scripted stand-ins for our own seams: a driver that plays batches, and an app around it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from flask import Flask
from flask.testing import FlaskClient

from proxy.app import create_app
from proxy.backends.driver import Capabilities, Learned, ignore
from proxy.backends.registry import Backend
from proxy.cancel import Cancel
from proxy.config import Settings
from proxy.core.events import Batch, Finished, Started, TextDelta
from proxy.core.order import Order
from proxy.core.task import Task
from proxy.core.usage import Usage
from proxy.errors import BackendDown, GatewayError
from proxy.web.services import EXTENSION, Services

CAPS = Capabilities(dialect="2023", slots=2, n_ctx=2048, models=("scripted",))
Script = Sequence[Batch | GatewayError]


def say(*pieces: str, reason: str = "stop", usage: Usage = Usage(7, 3, 2)) -> list[Batch]:  # noqa: B008
    """A whole answer: a batch a piece."""
    batches: list[Batch] = [[Started(slot=0)]]
    batches += [[TextDelta(piece)] for piece in pieces]
    batches.append([Finished(reason, usage, slot=0)])  # type: ignore[arg-type]
    return batches


class ScriptedRun:
    """Plays a script; an error in it is raised at its place. A piece of text is a token."""

    slot = 0

    def __init__(self, script: Script) -> None:
        self._script = script
        self._tokens = 0
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[Batch]:
        for step in self._script:
            if isinstance(step, GatewayError):
                raise step
            self._tokens += sum(e.pieces for e in step if isinstance(e, TextDelta))
            yield list(step)

    def usage(self) -> Usage:
        return Usage(7, self._tokens, 0)

    def close(self) -> None:
        self.closed.set()


class ScriptedDriver:
    """A backend that says what it is told to. `tasks` are those it got; a token is a character."""

    def __init__(self, script: Script = (), caps: Capabilities = CAPS, up: bool = True) -> None:
        self.script: Script = script or say("Hel", "lo")
        self.caps = caps
        self.up = up
        self.tasks: list[Task] = []
        self.runs: list[ScriptedRun] = []

    def probe(self, deadline: float, learned: Learned = ignore) -> Capabilities:
        if not self.up:
            raise BackendDown("the backend does not answer")
        return self.caps

    def alive(self) -> bool:
        return self.up

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> ScriptedRun:
        self.tasks.append(task)
        self.runs.append(ScriptedRun(self.script))
        return self.runs[-1]

    def tokenize(self, text: str, special: bool = False, cancel: Cancel | None = None) -> list[int]:
        return [ord(c) for c in text]

    def detokenize(self, tokens: list[int]) -> str:
        return "".join(map(chr, tokens))

    def close(self) -> None:
        pass


def make_app(*drivers: ScriptedDriver, **settings: object) -> Flask:
    """An app on these drivers, looked at once already; it waits for none that is down."""
    backends = [Backend(f"b{i}", f"test://{i}", driver) for i, driver in enumerate(drivers)]
    settings.setdefault("wait_for_backend", 0.0)
    app = create_app(Settings(**settings), backends)  # type: ignore[arg-type]
    registry = services_of(app).gateway.registry
    wait_until(lambda: registry.settled)
    return app


def services_of(app: Flask) -> Services:
    found: Services = app.extensions[EXTENSION]
    return found


def checked(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches, their order looked at as the gateway does."""
    order = Order()
    for batch in batches:
        order.see(batch)
        yield batch
    order.end()


def client(*drivers: ScriptedDriver, **settings: object) -> FlaskClient:
    return make_app(*(drivers or (ScriptedDriver(),)), **settings).test_client()


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """For what another thread does; polls, since nothing tells."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.002)


def gone(pid: int) -> bool:
    """Whether the process has ended, be it that nobody has asked for its end yet."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
