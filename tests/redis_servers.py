"""Redis and Valkey servers as child processes."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from tools.processes import Child, held_port

PROGRAMS = ("redis-server", "valkey-server")


def installed() -> list[str]:
    """The programs of PROGRAMS that are on this machine."""
    return [name for name in PROGRAMS if shutil.which(name)]


def first() -> str:
    """One of those; skips the test if there is none."""
    for name in installed():
        return name
    pytest.skip("no redis-server here: apt-get install redis-server")


class RedisServer(Child):
    """A server on a loopback port that it keeps. Unless `keeps`, it forgets all when it ends."""

    def __init__(self, program: str, folder: Path, *, keeps: bool = False) -> None:
        self.port = held_port()
        words = f"--port {self.port} --dir {folder} --appendonly {'yes' if keeps else 'no'}".split()
        if keeps:
            words += ["--appendfsync", "always"]
        words += ["--bind", "127.0.0.1"]
        command = [shutil.which(program) or program, *words, "--save", ""]
        super().__init__(command, folder / "redis.log")
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start (or restart) it and wait until it accepts connections."""
        before = self.log.count("Ready to accept connections")
        self.launch()
        end = time.monotonic() + 60
        while self.log.count("Ready to accept connections") == before:
            if not self.alive:
                raise self.fail("ended while starting")
            if time.monotonic() > end:
                raise self.fail("does not accept connections")
            time.sleep(0.02)
