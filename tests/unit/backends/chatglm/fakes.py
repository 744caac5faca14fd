"""A scripted engine without a model; a token is a character."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any

from proxy.backends.chatglm import protocol
from proxy.backends.chatglm.engine import serve
from proxy.backends.chatglm.protocol import Family, Generate, Load, Order, PromptMessage, Report

END = 0
HEADER = 1
FAMILY: Family = "chatglm3"


class FakeModel:
    """Generates `script` and ends; calls `pause` before each token."""

    version = "fake"
    vocabulary = 0x110000
    header = HEADER

    def __init__(
        self,
        script: str = "",
        *,
        n_ctx: int = 64,
        family: Family = FAMILY,
        pause: Callable[[], object] = lambda: None,
        endless: bool = False,
    ) -> None:
        self.script = script
        self.n_ctx = n_ctx
        self.family = family
        self.pause = pause
        self.endless = endless
        self.asked: list[Generate] = []
        self.steps: list[tuple[int, int, int]] = []

    def encode(self, prompt: PromptMessage) -> list[int]:
        if prompt.ids is not None:
            return list(prompt.ids)
        text = prompt.text
        if text is None:
            text = "".join(turn.head + turn.content for turn in prompt.turns)
        if "defect" in text:
            raise RuntimeError("the library is in trouble at /home/x/chatglm.cpp")
        return [ord(one) for one in text + "".join(prompt.opening)]

    def plain(self, text: str) -> list[int]:
        return [ord(one) for one in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(one) for one in ids if one > HEADER)

    def sampler(self, wanted: Generate) -> Callable[[list[int], int, int], int]:
        self.asked.append(wanted)
        said: Iterator[int] = iter([ord(one) for one in self.script])

        def following(ids: list[int], past: int, prompt: int) -> int:
            self.pause()
            self.steps.append((len(ids), past, prompt))
            return next(said, ord("x") if self.endless else END)

        return following

    def ends(self, token: int) -> bool:
        return token == END


class FakeProcess:
    """The process of an engine, as a thread with a scripted model. It is its own standard input."""

    def __init__(self, open_model: Callable[[str, int], object]) -> None:
        self._open = open_model
        self._orders: SimpleQueue[Order] = SimpleQueue()
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self.output = iter(self._lines.get, None)
        self.alive = True
        self.killed = False
        self._started = False

    @property
    def input(self) -> Any:
        return self

    def write(self, line: bytes) -> None:
        if self._started:
            self._orders.put(protocol.read_order(line))
            return
        self._started = True
        load = protocol.read_load(line)
        threading.Thread(target=self._serve, args=(load,), daemon=True).start()

    def flush(self) -> None:
        """Nothing is buffered."""

    def _serve(self, load: Load) -> None:
        with contextlib.suppress(BrokenPipeError):
            serve(load, self._orders, self._send, self._open)  # type: ignore[arg-type]
            self._end()

    def _send(self, report: Report) -> None:
        if not self.alive:
            raise BrokenPipeError
        self._lines.put(protocol.line(report))

    def _end(self) -> None:
        self.alive = False
        self._lines.put(None)

    def kill(self) -> None:
        self.killed = True
        self._end()

    def close(self, patience: float = 0.0) -> None:
        self.alive = False

    def wait(self) -> int:
        return -signal.SIGKILL if self.killed else 0
