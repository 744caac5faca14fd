"""Files and folders that only this process's user can read (modes 0600 and 0700). SQLite gives the
files beside a database its mode. On Windows, a user's folder is private.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

BESIDE = ("", "-wal", "-shm", "-journal", ".lock")
OTHERS = 0o077  # permissions of the group and all others


def folder(path: Path, ours: Iterable[str]) -> None:
    """Create a folder. An existing one is made private if it is our user's and only holds files
    whose names begin with one of `ours`: other folders have another purpose as well."""
    made = not path.exists()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if made or os.name == "nt":
        return
    names = tuple(ours)
    with contextlib.suppress(OSError):
        if all(entry.name.startswith(names) for entry in path.iterdir()):
            _narrow(path)


def database(path: Path) -> None:
    """Create an empty file for SQLite to open, or make an existing database private. Raises
    nothing: SQLite has better messages for a bad path."""
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    narrow(path)


def narrow(path: Path) -> None:
    """Make a database, and the files beside it, private."""
    if os.name == "nt":
        return
    for suffix in BESIDE:
        with contextlib.suppress(OSError):
            _narrow(path.with_name(path.name + suffix))


def _narrow(path: Path) -> None:
    # Never through a link, which may point to another user's file.
    info = path.lstat()
    plain = stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode)
    if plain and info.st_mode & OTHERS and info.st_uid == os.geteuid():
        path.chmod(info.st_mode & ~OTHERS & 0o7777)


def shown(path: Path) -> bool:
    """Whether every user of this machine can read a file."""
    try:
        return os.name != "nt" and bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False
