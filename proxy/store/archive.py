"""Backups of SQLite databases, taken while they are used: a .tar.gz with `manifest.json`, then a
snapshot of each database.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import tarfile
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from msgspec import Struct

from ..runtime import private_files
from .outage import address
from .revisions import revision_of

MANIFEST = "manifest.json"
FORMAT = 1
READ_MANIFEST = 1 << 16  # bytes, hundreds of times a real one
PIECE = 1 << 20  # bytes
FAST = 1  # gzip's level: text shrinks to a third, five times as fast as at the default
BUSY = 10.0  # seconds to wait for a lock


class BackupError(Exception):
    """A backup that cannot be made or used. The message is one line for the user."""


class Entry(Struct, frozen=True):
    """A file of the archive. `size` is in bytes, `revision` that of the tables, "" for none."""

    name: str
    size: int
    sha256: str
    revision: str


class Manifest(Struct, frozen=True, kw_only=True):
    """`created` is in seconds since 1970."""

    format: int
    version: str
    created: float
    files: tuple[Entry, ...]


def write(target: Path, databases: Mapping[str, Path], version: str) -> Manifest:
    """Copy those of `databases` that exist, in this order. Raises BackupError."""
    try:
        with TemporaryDirectory(prefix=".backup-", dir=target.absolute().parent) as work:
            folder = Path(work)
            names = [name for name, path in databases.items() if path.exists()]
            files = tuple(_copied(name, databases[name], folder / name) for name in names)
            if not files:
                raise BackupError("there are no stored data: name their folder with --data FOLDER")
            manifest = Manifest(format=FORMAT, version=version, created=time.time(), files=files)
            packed = folder / "archive"
            private_files.database(packed)  # the archive has everything that the databases have
            with tarfile.open(packed, "w:gz", compresslevel=FAST) as archive:
                data = msgspec.json.format(msgspec.json.encode(manifest))
                info = tarfile.TarInfo(MANIFEST)
                info.size, info.mtime, info.mode = len(data), int(manifest.created), 0o600
                archive.addfile(info, BytesIO(data))
                for name in names:
                    archive.add(folder / name, name)
            os.replace(packed, target)
    except (OSError, sqlite3.Error) as error:
        raise BackupError(f"cannot write {target}: {_reason(error)}") from error
    return manifest


def read(source: Path) -> Manifest:
    """The manifest of an archive. Raises BackupError."""
    with _opened(source) as archive:
        return _manifest(source, archive)


def restore(source: Path, databases: Mapping[str, Path]) -> Manifest:
    """Replace `databases` by those of an archive, or delete them. After a BackupError nothing has
    changed."""
    with _opened(source) as archive:
        manifest = _manifest(source, archive)
        unknown = [entry.name for entry in manifest.files if entry.name not in databases]
        if unknown:
            raise BackupError(f"{source} contains {unknown[0]!r}, which has no place here")
        for path in databases.values():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            ready = {}
            for entry in manifest.files:
                # Beside its place, so that it can be renamed.
                parent = databases[entry.name].parent
                work = TemporaryDirectory(prefix=".restore-", dir=parent)
                ready[entry.name] = Path(stack.enter_context(work)) / entry.name
                _unpack(source, archive, entry, ready[entry.name])
            for path in databases.values():
                _be_alone(path)
            for name, path in databases.items():
                for suffix in ("-wal", "-shm", "-journal"):
                    path.with_name(path.name + suffix).unlink(missing_ok=True)
                if name in ready:
                    os.replace(ready[name], path)
                else:
                    path.unlink(missing_ok=True)
    return manifest


def _copied(name: str, source: Path, target: Path) -> Entry:
    private_files.database(target)
    with (
        closing(sqlite3.connect(address(str(source)), timeout=BUSY, uri=True)) as reading,
        closing(sqlite3.connect(target)) as writing,
    ):
        reading.backup(writing)  # all pages in one step
        # Not in WAL mode: whatever opens the copy must not need a second file beside it.
        writing.execute("pragma journal_mode = delete").fetchall()
        revision = revision_of(writing)  # the index has none
    with target.open("rb") as copy:
        digest = hashlib.file_digest(copy, "sha256").hexdigest()
    return Entry(name, target.stat().st_size, digest, revision)


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
    except (EOFError, tarfile.TarError, zlib.error) as error:
        raise BackupError(f"{source} is not a whole backup: {error}") from error
    except OSError as error:
        raise BackupError(f"cannot restore {source}: {_reason(error)}") from error


def _manifest(source: Path, archive: tarfile.TarFile) -> Manifest:
    first = archive.next()
    file = archive.extractfile(first) if first is not None and first.name == MANIFEST else None
    if file is None:
        raise BackupError(f"{source} is not a backup of slotproxy")
    try:
        manifest = msgspec.json.decode(file.read(READ_MANIFEST), type=Manifest)
    except msgspec.DecodeError as error:
        raise BackupError(f"{source}: its manifest cannot be read: {error}") from error
    if manifest.format != FORMAT:
        version = manifest.version[:40]
        raise BackupError(f"{source} was made by slotproxy {version!r}: use that version or later")
    return manifest


def _unpack(source: Path, archive: tarfile.TarFile, entry: Entry, target: Path) -> None:
    try:
        file = archive.extractfile(entry.name)
    except KeyError:
        file = None
    if file is None:
        raise BackupError(f"{source} is damaged: {entry.name} is missing")
    private_files.database(target)
    left = entry.size  # of a file that nothing has vouched for yet
    with target.open("wb") as copy:
        while piece := file.read(PIECE):
            left -= len(piece)
            if left < 0:
                break
            copy.write(piece)
    if left:
        raise BackupError(f"{source} is damaged: {entry.name} has another size")
    with target.open("rb") as copy:
        digest = hashlib.file_digest(copy, "sha256").hexdigest()
    if digest != entry.sha256:
        raise BackupError(f"{source} is damaged: {entry.name} has another SHA-256")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
