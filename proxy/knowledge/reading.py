"""A document read by a child process (`extract`): sections, as they come.

Where gevent has patched the process only the greenlet waits for the child.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from .kinds import kind
from .splitting import Section

_HOME = Path(__file__).resolve().parents[2]  # where the package lies


class Limits(Struct, frozen=True):
    """Of one document: `seconds` of time, and of processor time; bytes of address space."""

    seconds: int = 300
    memory: int = 2 << 30


class Failed(Exception):
    """Why a document could not be read, in words for who uploaded it."""


class Reading:
    """One document being read. An iterator of (share done, section); `close` ends the child."""

    def __init__(self, filename: str, data: bytes, limits: Limits) -> None:
        paths = [str(_HOME), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._child = subprocess.Popen(
            [sys.executable, "-m", "proxy.knowledge.extract"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # what a terminal sends is for us
        )
        self._late = threading.Timer(limits.seconds, self._child.kill)
        self._late.daemon = True
        self._late.start()
        asked = {
            "kind": kind(filename),
            "end": filename.rpartition(".")[2].lower(),
            "size": len(data),
            "memory": limits.memory,
            "seconds": limits.seconds,
        }
        assert self._child.stdin is not None, "it was asked for"
        # The child reads all before it says anything, so this cannot wait for that.
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write(json.dumps(asked).encode() + b"\n")
            self._child.stdin.write(data)
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()

    def __iter__(self) -> Iterator[tuple[float, Section]]:
        """Raises Failed."""
        assert self._child.stdout is not None, "it was asked for"
        for line in self._child.stdout:
            try:
                said = json.loads(line)
            except ValueError:
                break  # it was ended in the middle of a word
            if "error" in said:
                raise Failed(said["error"])
            if said.get("over"):
                return
            yield said["done"], Section(said["place"], said["text"])
        late = self._late.finished.is_set()
        raise Failed("it takes too long to read" if late else "what it holds ended its reader")

    def close(self) -> None:
        self._late.cancel()
        with contextlib.suppress(OSError):
            self._child.kill()
        self._child.wait()
        assert self._child.stdout is not None, "it was asked for"
        self._child.stdout.close()
