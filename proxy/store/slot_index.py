"""The index of saved slots: which file holds which prompt, of which model and server.

It is a small SQLite database beside the files. They are worth nothing without each other, and the
gateway can evaluate every prompt again: so the index belongs to this machine even where other data
is in PostgreSQL, needs no migration, and is begun anew if it cannot be read.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct

from ..errors import StoreUnavailable
from ..runtime import private_files
from ..runtime.blocking import run_in_native_thread

if TYPE_CHECKING:
    import sqlite3  # only imported when it is used

T = TypeVar("T")

VERSION = 1  # of the tables
BUSY = 5.0  # seconds to wait for another writer
MOST_ROWS = 4096  # of a model
LASTING = 30 * 86400.0  # seconds for which the files of a model that is not used are kept

_TABLES = """
create table saved_slot (
    folder text not null, file text not null, model text not null, identity blob not null,
    tokens integer not null, size integer not null, saved real not null, record blob not null,
    primary key (folder, file)
);
create index saved_slot_model on saved_slot (model);
create table model (
    name text not null primary key, command blob not null, fingerprint blob not null,
    vain integer not null, used real not null
);
"""


class SlotRow(Struct, frozen=True, kw_only=True):
    """A file with a saved slot. `identity` tells whether the file has changed since, `saved` is the
    time of that in seconds since 1970, `record` the encoded prompt."""

    folder: str
    file: str
    identity: bytes
    tokens: int
    size: int
    saved: float
    record: bytes


class ModelRow(Struct, frozen=True, kw_only=True):
    """The files of a model. `fingerprint` tells which server and weights wrote them, `command` the
    same without what only a running server says; `vain` is how many restored ones were of no use in
    a row."""

    command: bytes
    fingerprint: bytes
    vain: int
    files: Sequence[SlotRow]


class SlotIndex:
    """Raises StoreUnavailable if the database cannot be used."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def exists(self) -> bool:
        return self._file.exists()

    def read(self, model: str) -> ModelRow | None:
        """What is known of a model, None for nothing."""

        def work(db: sqlite3.Connection) -> ModelRow | None:
            about = "select command, fingerprint, vain from model where name = ?"
            known = db.execute(about, (model,)).fetchone()
            if known is None:
                return None
            fields = SlotRow.__struct_fields__
            rows = db.execute(
                f"select {', '.join(fields)} from saved_slot where model = ?"
                " order by saved desc limit ?",
                (model, MOST_ROWS),
            ).fetchall()
            files = [SlotRow(**dict(zip(fields, row, strict=True))) for row in rows]
            command, fingerprint, vain = known
            return ModelRow(command=command, fingerprint=fingerprint, vain=vain, files=files)

        return self._do(work)

    def replace(self, model: str, row: ModelRow) -> None:
        """Replace all that is known of a model."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("delete from saved_slot where model = ?", (model,))
            db.execute(
                "insert or replace into model values (?, ?, ?, ?, ?)",
                (model, row.command, row.fingerprint, row.vain, time.time()),
            )
            db.executemany(
                "insert or replace into saved_slot values (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (f.folder, f.file, model, f.identity, f.tokens, f.size, f.saved, f.record)
                    for f in row.files
                ],
            )

        self._do(work)

    def current(self, folder: str, now: float) -> set[str]:
        """The names of the files of a folder. Models that were not used for long are forgotten."""

        def work(db: sqlite3.Connection) -> set[str]:
            old = "select name from model where used < ?"
            db.execute(f"delete from saved_slot where model in ({old})", (now - LASTING,))
            db.execute("delete from model where used < ?", (now - LASTING,))
            rows = db.execute("select file from saved_slot where folder = ?", (folder,))
            return {file for (file,) in rows.fetchall()}

        return self._do(work)

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do this in a transaction; a broken database is begun anew."""
        import sqlite3

        def attempt() -> T:
            private_files.database(self._file)
            with contextlib.closing(sqlite3.connect(self._file, timeout=BUSY)) as db, db:
                (version,) = db.execute("pragma user_version").fetchone()
                if version not in (0, VERSION):
                    raise sqlite3.DatabaseError("the index is of another version")
                if not version:
                    db.executescript(f"begin; {_TABLES} pragma user_version = {VERSION}; commit;")
                return work(db)

        def attempts() -> T:
            try:
                return attempt()
            except sqlite3.OperationalError as error:  # it is locked, or the disk is full
                raise StoreUnavailable(str(error)) from error
            except sqlite3.DatabaseError:
                self._file.unlink(missing_ok=True)
            try:
                return attempt()
            except sqlite3.Error as error:
                raise StoreUnavailable(str(error)) from error

        return run_in_native_thread(attempts)
