"""A scripted engine without a model; a token is a character."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator, Sequence

from proxy.backends.chatglm.engine import serve_socket
from proxy.backends.chatglm.protocol import Family, Generate, PromptMessage

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
    """The process of an engine, as a thread with a scripted model."""

    def __init__(self, sock: socket.socket, open_model: Callable[[str, int], object]) -> None:
        self._sock = socket.socket(fileno=sock.detach())
        self.alive = True
        self.killed = False
        threading.Thread(target=self._serve, args=(open_model,), daemon=True).start()

    def _serve(self, open_model: Callable[[str, int], object]) -> None:
        serve_socket(self._sock, select.select, open_model)  # type: ignore[arg-type]  # a fake
        self.alive = False

    def kill(self) -> None:
        self.killed, self.alive = True, False
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self, patience: float = 0.0) -> None:
        self.alive = False

    @property
    def exit(self) -> str:
        return "signal 9" if self.killed else "exit code 0"
