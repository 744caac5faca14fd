"""The driver of a model that the gateway starts itself.

It is up whether its server runs or not, so that requests may wait for it; until it runs, its
capabilities are `provisional`. Everything that a client asks starts the server; health checks,
metrics and lists do not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import msgspec

from ..backends.driver import (
    Capabilities,
    Driver,
    Input,
    LaterRun,
    OnCapabilities,
    SlotAction,
    ignore,
)
from ..backends.http_server import DIALECT as HTTP
from ..backends.http_server import HTTPServer, WhisperServer
from ..backends.router import outline
from ..core.events import Batch
from ..core.task import CallMaker, Embedded, Forwarded, Ranked, Task
from ..errors import BackendDown, UpstreamTimeout
from ..runtime.cancel import Cancel
from ..wire.router import Listed
from .model import HostedModel
from .model_files import adapters
from .starting import Server

FORWARDS = {"http": HTTPServer.forwards, "whisper": WhisperServer.forwards}  # by kind


class HostedDriver(Driver):
    """`tick` is after how many seconds a waiting request reports, `timeout` the longest wait."""

    def __init__(self, model: HostedModel, *, tick: float, timeout: float) -> None:
        self.model = model
        self._tick = min(tick or timeout, timeout)
        self._timeout = timeout
        self._outline = _outline(model)
        self.forwards = FORWARDS.get(model.config.kind, "")

    # for the registry

    def probe(self, deadline: float, on_capabilities: OnCapabilities = ignore) -> Capabilities:
        server = self.model.server
        if server is not None:
            try:
                server.probe(deadline)
            except UpstreamTimeout:
                self.model.kill("it returns no token")
                raise
        return self.refresh()[0]

    def alive(self) -> bool:
        server = self.model.server
        return server is None or server.alive() or self.model.server is not server

    def refresh(self) -> tuple[Capabilities, bool]:
        model = self.model
        model.examine()
        lost, model.lost = model.lost, False
        caps = model.caps or self._outline
        return msgspec.structs.replace(caps, provisional=model.server is None), lost

    def count_slots(self) -> int:
        model = self.model
        server, caps = model.server, model.caps
        if server is None or caps is None:
            return 0
        count = server.count_slots()
        count = min(count, model.config.concurrency or count)
        model.caps = msgspec.structs.replace(caps, slots=count)
        return count

    def counters(self) -> dict[str, float]:
        server = self.model.server
        return {} if server is None else server.counters()

    def server_prompt(self, task: Task) -> str | None:
        return self._loaded().server_prompt(task)

    def close(self) -> None:
        self.model.close()

    @property
    def status(self) -> str:
        """As llama-server's router names it; a load that is stopped counts as none."""
        status = self.model.status
        return "unloaded" if status == "stopping" else status

    def trouble(self, *, admin: bool = False) -> str:
        error = self.model.error
        if admin and error is not None and error.private is not None:
            return error.private[0]
        return error.message if error else ""

    @property
    def load_eta(self) -> float:
        return 0.0 if self.model.status == "loaded" else self.model.takes

    @property
    def leaving(self) -> bool:  # type: ignore[override]  # read-only here
        return self.model.leaving

    @property
    def keeps_files(self) -> bool:
        return self.model.slots is not None and self.model.slots.keeps_files

    # for the gateway

    def load(self, cancel: Cancel) -> Iterator[None]:
        for server in self._waiting(cancel):
            if server is None:
                yield
        self.model.leave(answered=False)

    def loading(self) -> str:
        return self.model.notice()

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> HostedRun:
        return HostedRun(self, task, slot, caps, cancel)

    def tokenize(self, text: str, special: bool = False, cancel: Cancel | None = None) -> list[int]:
        with self._server(cancel) as server:
            return server.tokenize(text, special, cancel)

    def in_parts(self, task: Task, cancel: Cancel | None = None) -> list[str | int]:
        if not task.breaks:
            return super().in_parts(task, cancel)
        with self._server(cancel) as server:
            return server.in_parts(task, cancel)

    def prompt_ids(self, task: Task, cancel: Cancel | None = None) -> list[int] | None:
        if not task.backend_templates:
            return None
        with self._server(cancel) as server:
            return server.prompt_ids(task, cancel)

    def detokenize(self, tokens: list[int]) -> str:
        with self._server() as server:
            return server.detokenize(tokens)

    def pieces(self, text: str, special: bool) -> list[tuple[int, bytes]]:
        with self._server() as server:
            return server.pieces(text, special)

    def n_vocab(self) -> int | None:
        with self._server() as server:
            return server.n_vocab()

    def slot_action(
        self, action: SlotAction, slot: int, file: str, seconds: float | None = None
    ) -> tuple[int, int]:
        slots = self.model.slots
        if slots is not None and action == "restore":
            with self._server() as server:  # it may have ended since the slot was granted
                return slots.restore(server, slot, file)
        if slots is not None and action == "save":
            return slots.write(self._loaded(), slot, file)
        return self._loaded().slot_action(action, slot, file, seconds)

    def embed(self, inputs: Sequence[Input], caps: Capabilities, cancel: Cancel) -> Embedded:
        with self._server(cancel) as server:
            return server.embed(inputs, caps, cancel)

    def rerank(
        self, query: str, documents: Sequence[str], caps: Capabilities, cancel: Cancel
    ) -> Ranked:
        with self._server(cancel) as server:
            return server.rerank(query, documents, caps, cancel)

    def forward(self, make: CallMaker, cancel: Cancel) -> Forwarded:
        server = self._started(cancel)
        try:
            answer = server.forward(make, cancel)
        except BaseException:
            self.model.leave(answered=False)
            raise
        answer.closing.append(lambda whole: self.model.leave(answered=whole))
        return answer

    def _loaded(self) -> Server:
        server = self.model.server
        if server is None:
            raise BackendDown("the model is not loaded")
        return server

    def _waiting(self, cancel: Cancel) -> Iterator[Server | None]:
        return self.model.use(cancel, self._tick, self._timeout)

    def _started(self, cancel: Cancel) -> Server:
        """The server, started if necessary. The model's `leave` must be called after its use."""
        for server in self._waiting(cancel):
            if server is not None:
                return server
        raise AssertionError("its wait ends with a server or an error")

    @contextlib.contextmanager
    def _server(self, cancel: Cancel | None = None) -> Iterator[Server]:
        """The server, started if necessary and used until the end of the block."""
        server = self._started(cancel or Cancel())
        answered = False
        try:
            yield server
            answered = True
        finally:
            self.model.leave(answered=answered)


def _outline(model: HostedModel) -> Capabilities:
    """What is known of a model before its first load."""
    if not model.config.makes_text:
        caps = Capabilities(dialect=HTTP, queues=True, tokenize=False, provisional=True)
    else:
        caps = outline(Listed(name=model.name, status="unloaded"))
        caps = msgspec.structs.replace(caps, adapters=adapters(model.config.command))
    return msgspec.structs.replace(caps, dialect="not loaded yet")


class HostedRun(LaterRun):
    """A completion that waits for the model's server. The server is not ended before `close`."""

    def __init__(
        self, driver: HostedDriver, task: Task, slot: int, caps: Capabilities, cancel: Cancel
    ) -> None:
        self._driver = driver
        self._arguments = task, slot, caps, cancel
        self._uses = False
        self._answered = False

    def __iter__(self) -> Iterator[Batch]:
        *_, cancel = self._arguments
        for server in self._driver._waiting(cancel):
            if server is None:
                yield []
                continue
            self._uses = True
            self._run = server.stream(*self._arguments)
            yield from self._run
        self._answered = True

    def close(self) -> None:
        super().close()
        if self._uses:
            self._uses = False
            self._driver.model.leave(answered=self._answered)
