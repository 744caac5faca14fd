"""A folder of saved slots: its files are this gateway's alone, and only its user can read them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from ..runtime import private_files

if sys.platform != "win32":
    import fcntl

PREFIX, SUFFIX = "slotproxy-", ".bin"
LOCK = ".slotproxy.lock"


class SlotFolder:
    """Creates the folder if necessary. Raises OSError: a BlockingIOError if another gateway uses
    it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            path.mkdir(mode=0o700, parents=True)
        private_files.database(path / LOCK)
        self._lock = os.open(path / LOCK, os.O_RDWR | os.O_CLOEXEC)
        try:
            if sys.platform != "win32":
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise

    def __truediv__(self, file: str) -> Path:
        return self.path / file

    def create(self, file: str) -> None:
        """Create an empty private file, whose mode stays when a server overwrites it. Raises
        OSError."""
        self.remove((file,))
        os.close(os.open(self.path / file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))

    def remove(self, files: Iterable[str]) -> None:
        for file in files:
            with contextlib.suppress(OSError):
                (self.path / file).unlink()

    def sweep(self, keep: Collection[str], beginning: str = PREFIX) -> int:
        """Remove our files that begin so, but for those to keep. Returns their number."""
        going = [
            name
            for name in os.listdir(self.path)
            if name.startswith(beginning) and name.endswith(SUFFIX) and name not in keep
        ]
        self.remove(going)
        return len(going)

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
