"""A document read and cut by a child process (`extract`): pieces, as they come.

Where gevent has patched the process only the greenlet waits for the child.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator

from msgspec import Struct

from ..confinement import command, environment
from .kinds import kind
from .splitting import Piece
from .values import Splitting

LONGEST = 4 << 20  # bytes of one piece, as JSON


class Limits(Struct, frozen=True):
    """Of one document: `seconds` of processor time, and of waiting for its next piece; bytes of
    address space."""

    seconds: int = 300
    memory: int = 1 << 30


class Failed(Exception):
    """Why a document could not be read, in words for who uploaded it."""


class Reading:
    """One document being read. An iterator of (share done, piece); `end` from any thread, `close`
    when it was iterated over."""

    def __init__(
        self,
        filename: str,
        size: int,
        data: Iterable[bytes],
        splitting: Splitting,
        limits: Limits,
    ) -> None:
        self._seconds = limits.seconds
        self._longest = splitting.size
        self._since: float | None = time.monotonic()  # waiting for the child; None: it for us
        self._late = False
        self._child = subprocess.Popen(
            command("proxy.knowledge.extract"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
            start_new_session=True,  # what a terminal sends is for us
        )
        asked = {
            "kind": kind(filename),
            "end": filename.rpartition(".")[2].lower(),
            "size": size,
            "memory": limits.memory,
            "seconds": limits.seconds,
            "chunk": splitting.size,
            "overlap": splitting.overlap,
        }
        assert self._child.stdin is not None, "it was asked for"
        # The child takes all before it says anything, so this cannot wait for that. The pipe stays
        # open: its end tells the child that we are gone.
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write(json.dumps(asked).encode() + b"\n")
            for piece in data:
                size -= len(piece)
                self._child.stdin.write(piece)
            self._child.stdin.flush()
        if size > 0 and self._child.poll() is None:
            self.end()  # it was deleted meanwhile: nothing is to come that the child waits for

    def __iter__(self) -> Iterator[tuple[float, Piece]]:
        """Raises Failed."""
        assert self._child.stdout is not None, "it was asked for"
        while line := self._child.stdout.readline(LONGEST):
            self._since = None
            try:
                said = json.loads(line)
            except ValueError:
                self.end()  # unless it ended in the middle of a word, it says what no reader says
                break
            if "error" in said:
                raise Failed(said["error"])
            if said.get("over"):
                return
            if len(said["text"]) > self._longest:
                self.end()
                break
            yield said["done"], Piece(said["place"], said["text"])
            self._since = time.monotonic()
        late = self._late or self._child.wait() == -signal.SIGXCPU
        raise Failed("it takes too long to read" if late else "what it holds ended its reader")

    def hurry(self) -> None:
        """End the child where its next piece takes too long."""
        since = self._since
        if since is not None and time.monotonic() - since > self._seconds:
            self._late = True
            self.end()

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._child.kill()

    def close(self) -> None:
        self.end()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None, "it was asked for"
            with contextlib.suppress(OSError):
                pipe.close()
