"""Where the workers that share an engine meet: a folder that only this user can enter.

Whoever can lock the folder may start an engine there; the lock goes over to it, and is its own for
as long as it lives. So nothing that a dead one left behind has to be believed.

    socket   where it listens          alive   a pipe that all who use it hold open for writing
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path


def meeting(*what: object) -> Path:
    """The folder for who agrees in all of this. Raises OSError, also where another user could have
    a hand in it."""
    base = Path(tempfile.gettempdir(), f"slotproxy-{os.getuid()}")
    base.mkdir(mode=0o700, exist_ok=True)
    found = base.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{base} is not a folder of this user alone")
    folder = base / hashlib.sha256(repr(what).encode()).hexdigest()[:16]
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def lock(folder: Path) -> int | None:
    """The locked folder as a file number; None while another has it."""
    import fcntl  # not on Windows

    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(number)
        return None
    return number
