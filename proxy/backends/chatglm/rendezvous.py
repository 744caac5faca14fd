"""The folder where workers find the engine they share. Only this user can enter it.

The worker that can lock the folder may start an engine there; the engine inherits the lock and
holds it as long as it lives. So nothing that a dead engine left behind has to be trusted.

    socket   where it listens          alive   a pipe that all its users hold open for writing
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path


def meeting(*values: object) -> Path:
    """The folder of all workers that agree in these values. Raises OSError, also if another user
    could interfere with it."""
    base = Path(tempfile.gettempdir(), f"slotproxy-{os.getuid()}")
    base.mkdir(mode=0o700, exist_ok=True)
    info = base.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise PermissionError(f"{base} must be a directory that only this user can access")
    folder = base / hashlib.sha256(repr(values).encode()).hexdigest()[:16]
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def lock(folder: Path) -> int | None:
    """Lock the folder. Returns a file descriptor; None while another process holds the lock."""
    import fcntl  # not on Windows

    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(number)
        return None
    return number
