"""Files and folders that nobody but the user of this process can read (modes 0600 and 0700).

SQLite gives the files that it puts beside a database (-wal, -shm, -journal) the mode of the
database, so it is enough to make that one. Windows has no such modes: there, a user's folder is
private.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

BESIDE = ("", "-wal", "-shm", "-journal", ".lock")
OTHERS = 0o077  # what the group and all others may do


def folder(path: Path, ours: Iterable[str]) -> None:
    """Make it. One that is there is narrowed if it is our user's and holds nothing but files whose
    names begin as one of `ours`: other folders are shared with something else."""
    made = not path.exists()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if made or os.name == "nt":
        return
    names = tuple(ours)
    with contextlib.suppress(OSError):
        if all(entry.name.startswith(names) for entry in path.iterdir()):
            _narrow(path)


def database(path: Path) -> None:
    """Make an empty file for SQLite to open, or narrow the database that is there. Nothing is
    raised: SQLite says better what is wrong with a path."""
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    narrow(path)


def narrow(path: Path) -> None:
    """Narrow a database, and what is beside it, if it is there."""
    if os.name == "nt":
        return
    for suffix in BESIDE:
        with contextlib.suppress(OSError):
            _narrow(path.with_name(path.name + suffix))


def _narrow(path: Path) -> None:
    # Never through a link, which may lead to somebody else's file.
    found = path.lstat()
    plain = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    if plain and found.st_mode & OTHERS and found.st_uid == os.geteuid():
        path.chmod(found.st_mode & ~OTHERS & 0o7777)


def shown(path: Path) -> bool:
    """Whether every user of this machine may read this file."""
    try:
        return os.name != "nt" and bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False
