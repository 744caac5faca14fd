"""A scripted engine without a model; a token is a character."""

from __future__ import annotations

import contextlib
import selectors
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence

from proxy.backends.chatglm import protocol
from proxy.backends.chatglm.engine import serve
from proxy.backends.chatglm.protocol import Family, Generate, Load, Peers, PromptMessage, Report

END = 0
HEADER = 1
FAMILY: Family = "chatglm3"


class FakeModel:
    """Generates `script` and ends; calls `pause` before each token."""

    version = "fake"
    vocabulary = 0x110000

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

    def is_header(self, token: int) -> bool:
        return token == HEADER


class FakeHost:
    """An engine in a thread, with a scripted model. Several drivers may share it."""

    started = True

    def __init__(self, load: Load, open_model: Callable[[str, int], object]) -> None:
        self.sock, first = socket.socketpair()
        self._folder = tempfile.TemporaryDirectory()
        self._theirs = [first]
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self._folder.name}/socket")
        self._listener.listen()
        self._peers = Peers(selectors.DefaultSelector(), self._listener, self._theirs)
        self.killed: list[int] = []
        self._thread = threading.Thread(
            target=serve, args=(self._peers, load, open_model), daemon=True
        )
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> socket.socket:
        """Another connection to it."""
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(f"{self._folder.name}/socket")
        except OSError:
            sock.close()
            raise
        return sock

    def crash(self) -> None:
        """Ends like a process that was killed."""
        for sock in self._theirs:
            with contextlib.suppress(OSError):  # it has ended by itself
                sock.shutdown(socket.SHUT_RDWR)

    def kill(self, pid: int) -> None:
        self.killed.append(pid)
        self.crash()

    def end(self) -> str:
        self.sock.close()
        self._thread.join(60)
        self._folder.cleanup()
        return "exit code 0"


class Peer:
    """A connection to an engine, frame by frame."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(10)
        self._frames = protocol.Frames()
        self._ready: list[Report] = []

    def send(self, *orders: protocol.Order) -> None:
        self.sock.sendall(b"".join(protocol.pack(one) for one in orders))

    def receive(self) -> Report:
        while not self._ready:
            data = self.sock.recv(1 << 16)
            assert data, "the engine hung up"
            self._ready += [protocol.read_report(one) for one in self._frames.feed(data)]
        return self._ready.pop(0)

    def until(self, kind: type) -> list[Report]:
        """All reports up to the first of `kind`."""
        out = [self.receive()]
        while not isinstance(out[-1], kind):
            out.append(self.receive())
        return out
