"""Backups of SQLite databases in use: a .tar.gz with `manifest.json` and a snapshot of each."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from gzip import BadGzipFile
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from msgspec import Struct

from ..runtime import private_files
from .outage import address
from .revisions import NEWEST, revision_of

MANIFEST = "manifest.json"
READ_MANIFEST = 1 << 16  # bytes, hundreds of times a real one
FAST = 1  # gzip's level: text shrinks to a third, five times as fast as at the default
BUSY = 10.0  # seconds to wait for a lock


class BackupError(Exception):
    """A backup that cannot be made or used. The message is one line for the user."""


class Backup(Struct, frozen=True):
    """The slotproxy that made it, and when, in seconds since 1970; `sizes` in bytes, by name."""

    version: str
    created: float
    sizes: Mapping[str, int] = {}


def write(target: Path, databases: Mapping[str, Path], version: str) -> Backup:
    """Copy those of `databases` that exist, in this order. Raises BackupError."""
    try:
        with TemporaryDirectory(prefix=".backup-", dir=target.absolute().parent) as work:
            folder = Path(work)
            names = [name for name, path in databases.items() if path.exists()]
            if not names:
                raise BackupError("there are no stored data: name their folder with --data FOLDER")
            for name in names:
                _copy(databases[name], folder / name)
            sizes = {name: (folder / name).stat().st_size for name in names}
            backup = Backup(version, time.time(), sizes)
            packed = folder / "archive"
            private_files.database(packed)  # the archive has everything that the databases have
            with tarfile.open(packed, "w:gz", compresslevel=FAST) as archive:
                data = msgspec.json.encode(backup)
                info = tarfile.TarInfo(MANIFEST)
                info.size, info.mtime, info.mode = len(data), int(backup.created), 0o600
                archive.addfile(info, BytesIO(data))
                for name in names:
                    archive.add(folder / name, name)
            os.replace(packed, target)
    except (OSError, sqlite3.Error) as error:
        raise BackupError(f"cannot write {target}: {_reason(error)}") from error
    return backup


def restore(
    source: Path, databases: Mapping[str, Path], agree: Callable[[Backup], object]
) -> Backup:
    """Replace `databases` by those of an archive. After a BackupError nothing has changed."""
    with _opened(source) as archive, contextlib.ExitStack() as stack:
        backup = _read(source, archive)
        agree(backup)
        ready: dict[str, Path] = {}
        for member in archive:
            if member.name == MANIFEST:
                continue
            file = archive.extractfile(member)
            if file is None or member.name not in databases:
                raise BackupError(f"{source} contains {member.name!r}, which has no place here")
            # Beside its place, so that it can be renamed.
            parent = databases[member.name].parent
            parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            work = TemporaryDirectory(prefix=".restore-", dir=parent)
            unpacked = ready[member.name] = Path(stack.enter_context(work)) / member.name
            private_files.database(unpacked)
            with unpacked.open("wb") as copy:
                shutil.copyfileobj(file, copy)
            with closing(sqlite3.connect(unpacked)) as connection:
                if revision_of(connection) > NEWEST:
                    version = backup.version[:40]
                    raise BackupError(f"{source} is from a later slotproxy: install {version}")
        assert archive.fileobj is not None, "it is open"
        while archive.fileobj.read(1 << 20):
            pass  # to gzip's checksum of the whole
        for path in databases.values():
            _be_alone(path)
        for name, path in databases.items():
            for suffix in ("-wal", "-shm", "-journal"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            if name in ready:
                os.replace(ready[name], path)
            else:
                path.unlink(missing_ok=True)
    return backup


def _copy(source: Path, target: Path) -> None:
    private_files.database(target)
    with (
        closing(sqlite3.connect(address(str(source)), timeout=BUSY, uri=True)) as reading,
        closing(sqlite3.connect(target)) as writing,
    ):
        reading.backup(writing)  # all pages in one step
        # Not in WAL mode: whatever opens the copy must not need a second file beside it.
        writing.execute("pragma journal_mode = delete").fetchall()


def _be_alone(path: Path) -> None:
    """Leave WAL mode, which SQLite refuses while another process has the database open."""
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(path, timeout=1)) as connection:
            connection.execute("pragma journal_mode = delete").fetchall()
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorname != "SQLITE_NOTADB":  # a damaged one is replaced
            raise BackupError(f"{path} is in use: stop slotproxy first") from error


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(source, "r:gz") as archive:
            yield archive
    except (EOFError, BadGzipFile, tarfile.TarError, zlib.error) as error:
        raise BackupError(f"{source} is not a whole backup: {error}") from error
    except OSError as error:
        raise BackupError(f"cannot restore {source}: {_reason(error)}") from error


def _read(source: Path, archive: tarfile.TarFile) -> Backup:
    first = archive.next()
    file = archive.extractfile(first) if first is not None and first.name == MANIFEST else None
    if file is None:
        raise BackupError(f"{source} is not a backup of slotproxy")
    try:
        return msgspec.json.decode(file.read(READ_MANIFEST), type=Backup)
    except msgspec.DecodeError as error:
        raise BackupError(f"{source}: its manifest cannot be read: {error}") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
