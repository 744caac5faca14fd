"""Starts the server of a model, and waits until it can be used."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any, Literal

import msgspec

from ..backends.driver import Capabilities
from ..backends.http import CheckPeer
from ..backends.http_server import HTTPDriver
from ..backends.probe import ROUTER
from ..backends.refusals import LOAD_FAILED, MAX_SAID, plain
from ..config import PORT, ModelConfig
from ..errors import BackendDown, UpstreamFault, UpstreamTimeout
from .memory_budget import MemoryBudget
from .model_files import foreign_file, missing_file
from .need import Cards, KeptNeeds
from .process import MAX_SHOWN, ModelLog, ModelProcess, PortGuard, free_port
from .slot_keeper import ModelSlots, SlotKeeper

LOOK = 0.05  # seconds between two checks of a server that loads, at first
SELDOM = 0.5  # the same, later; also of a request for a cancellation
CHECK_TIMEOUT = 5.0
NO_PROGRAM = "exit code 127"  # as a shell

Server = HTTPDriver


class Hosting(msgspec.Struct, kw_only=True):
    """What all models of a gateway share."""

    connect: Callable[[ModelConfig, str, CheckPeer], Server]  # a driver for the server at a URL
    room: MemoryBudget
    deadline: float  # seconds within which a server must return a token
    max_waiting: int  # requests for a load
    needs: KeptNeeds | None = None
    cards: Cards = msgspec.field(default_factory=Cards)
    keeper: SlotKeeper | None = None


Cause = Literal[
    "ended", "late", "not_started", "missing", "unsuitable", "died", "too_large", "other"
]
# The lines of a log that say why a server ended, the most telling kind first; of each, the first.
_TELLING = (
    r"out of memory|insufficient memory|(failed|unable|cannot|could not) (to )?alloc",
    r"no such file|permission denied|cannot open|unable to open|failed to open",
    r"unknown model arch|unknown .{0,20}type|invalid magic|corrupted|not within the file",
    r"(invalid|unknown|unrecognized) (argument|option)|error while handling argument",
    r"address already in use|couldn.t bind",
    r"what\(\)|\b(\w+error|exception):|^error\b",
    r"error|failed|unable|cannot",
)
# Time, which looks like an address to `said`, and level, as of llama-server.
_PREFIX = r"^(?:[\d.:]+|…) [DIWEF] (?:\w{3} +)?"


class LoadFailed(UpstreamFault):
    """Why the server of a model does not run. The operator's page has a remedy for each cause:
    "ended" while it loaded, "late": not ready within start_timeout, "not_started": no such program,
    "missing": no such model file, or no model in it, "unsuitable": a server that cannot be a model,
    "died" after it was loaded. `details` are the last lines that the server printed."""

    code = LOAD_FAILED

    def __init__(self, message: str, *, cause: Cause = "other", **options: Any) -> None:
        super().__init__(message, **options)
        self.cause = cause


class Stopped(Exception):
    """The load is not wanted any more."""


class Starter:
    """`log` gets what the server prints. `process` is the last one, until `end`."""

    def __init__(
        self,
        config: ModelConfig,
        hosting: Hosting,
        log: ModelLog,
        slots: ModelSlots | None,
        unwanted: Callable[[], bool],
    ) -> None:
        self.process: ModelProcess | None = None
        self.connect: Callable[[str, CheckPeer], Server] = partial(hosting.connect, config)
        self._config, self._log, self._slots, self._unwanted = config, log, slots, unwanted
        self._deadline, self._changed = hosting.deadline, hosting.room.changed

    def start(self, end: float) -> tuple[Server, ModelProcess, Capabilities]:
        """Start the server. Raises Stopped, LoadFailed, UpstreamFault, OSError."""
        config, guard, port = self._config, PortGuard(), free_port()
        server = self.connect(config.url.replace(PORT, str(port)), guard.check)
        try:
            # A port that is not of our choice may be taken.
            fixed = PORT not in config.url
            if fixed and (server.status_of("/health", CHECK_TIMEOUT) or guard.foreign):
                raise self.failure("another server listens at its url", "unsuitable")
            launched = self._slots.begin() if self._slots is not None else config
            process = self.process = ModelProcess(launched, port, self._log, self._notify)
            guard.watch(process.pid)
            return server, process, self._loaded(process, server, guard, end)
        except BaseException:
            server.close()
            raise

    def kill(self) -> None:
        if (process := self.process) is not None:
            process.kill()

    def end(self) -> None:
        if self.process is not None:
            self.process.end()
            self.process = None

    def check(self) -> None:
        """Raises LoadFailed if a load could only fail: before others give way to it."""
        config = self._config
        if gone := missing_file(config):
            private = f"its file {gone} does not exist: correct its command, or restore the file"
            raise self._failed("missing", "its model file does not exist", private)
        if wrong := foreign_file(config):
            private = f"its file {wrong} is not a GGUF file: download it again"
            raise self._failed("missing", "its model file is not a GGUF file", private)
        if not config.has_program and "PATH" not in config.environment:
            private = f"{config.program_trouble}: correct its command, or --llama-server"
            raise self._failed("not_started", "its program does not exist", private)

    def failure(self, why: str, cause: Cause) -> LoadFailed:
        return self._failed(cause, why, why, self._log.end(), self._log.end(plain))

    def _failed(self, cause: Cause, why: str, private: str, *logs: Sequence[str]) -> LoadFailed:
        """The reasons and logs are for clients, and for operators. The most telling line of a log
        is part of the sentence."""
        texts = []
        for reason, lines in zip_longest((why, private), logs, fillvalue=()):
            line = telling(lines)
            message = f"the model {self._config.name} failed to load: {reason}"
            texts.append((f"{message}: {line}" if line else message, "\n".join(lines)[-MAX_SHOWN:]))
        (message, details), own = texts
        return LoadFailed(message, cause=cause, details=details, private=own)

    def _loaded(
        self, process: ModelProcess, server: Server, guard: PortGuard, end: float
    ) -> Capabilities:
        """Wait until the server is ready, and probe it. Raises Stopped, UpstreamFault."""
        pause = LOOK
        while True:
            why = "its server was not ready within start_timeout"
            # Read before the look at the port, which then finds the program that made it end.
            alive = process.alive
            status = server.status_of(self._config.check or "/health", CHECK_TIMEOUT)
            ready = status == 200 if self._config.check else status not in (0, 503)
            if ready:
                try:
                    return self._probed(server)
                except BackendDown as down:  # it answers before its model is loaded
                    why += f": {down.message}"
            if self._unwanted():
                raise Stopped
            if guard.foreign:
                raise self.failure(f"{guard.foreign} listens at its port", "unsuitable")
            if not alive:
                process.read_out()
                cause: Cause = "not_started" if process.exit == NO_PROGRAM else "ended"
                raise self.failure(f"its server ended with {process.exit}", cause)
            if time.monotonic() > end:
                raise self.failure(why, "late")
            with self._changed:
                self._changed.wait_for(lambda: self._unwanted() or not process.alive, pause)
            pause = min(SELDOM, pause * 1.2)

    def _probed(self, server: Server) -> Capabilities:
        """What the server can do. Its slots are counted now if it does not report them, because
        nobody else uses it. Raises BackendDown if it is not ready, UpstreamFault."""
        try:
            caps = server.probe(self._deadline)
        except UpstreamTimeout as error:
            raise self.failure(error.message, "late") from None
        if caps.dialect == ROUTER:
            raise self.failure(
                "its server has several models: set server_model to one of them"
                if self._config.kind == "openai"
                else "its server is a multi-model router: start it yourself and use --llama-api",
                "unsuitable",
            )
        if not caps.slots and not caps.queues:
            caps = msgspec.structs.replace(caps, slots=server.count_slots())
        most = self._config.concurrency or caps.slots
        return msgspec.structs.replace(caps, slots=min(most, caps.slots or most))

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()


def telling(lines: Sequence[str]) -> str:
    """The line that says best why a server ended, "" if none does."""
    for pattern in _TELLING:
        for line in lines:
            if re.search(pattern, line, re.IGNORECASE):
                return re.sub(_PREFIX, "", line).strip()[:MAX_SAID]
    return ""
