"""What OpenAI's files and vector stores have beyond knowledge bases and documents.

Files as they were uploaded, in bases or in none; which document of a base is which file, with the
attributes it was given; batches; and what a vector store is told to remember. Every row has an
owner, and each call sees its owner's rows alone. Times are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import IO, Any, TypeVar

from msgspec import Struct, structs
from sqlalchemy import ColumnElement, Engine, Row, Table, delete, insert, select

from . import pieces
from .quota import MOST_BATCHES, Quota, drop_oldest
from .tables import ATTACHED, BATCHES, CONTENTS, FILES, KEPT

T = TypeVar("T")


class File(Struct, frozen=True):
    """`size` in bytes; `expires` None: never."""

    file_id: str
    filename: str
    purpose: str
    size: int
    created: float
    expires: float | None = None


class Kept(Struct, frozen=True):
    """Of a vector store: it lasts `lasts` days since it was last `active`; None: until deleted."""

    base_id: str
    metadata: dict[str, str]
    lasts: int | None
    active: float


class Attached(Struct, frozen=True):
    """A file in a vector store: the document it became, the batch it came with, its attributes,
    and the tokens of its chunks and of their overlap. `error` says why it became none."""

    base_id: str
    file_id: str
    document_id: str
    batch_id: str
    attributes: dict[str, Any]
    tokens: int
    overlap: int
    created: float
    error: str = ""


class Batch(Struct, frozen=True):
    batch_id: str
    base_id: str
    created: float
    cancelled: bool = False


class FileStore:
    """Raises SQLAlchemy's errors where the database cannot be had."""

    def __init__(self, engine: Engine, quota: Quota = Quota()) -> None:  # noqa: B008
        self._engine = engine
        self._quota = quota

    # -- files -------------------------------------------------------------------------------------

    def put(self, owner: str, file: File, data: IO[bytes]) -> None:
        """Raises QuotaExceeded."""
        with self._engine.begin() as db:
            db.execute(insert(FILES).values(owner=owner, **structs.asdict(file)))
            self._quota.check(db, owner)
            pieces.put(db, CONTENTS, file.file_id, data)

    def get(self, owner: str, file_id: str) -> File | None:
        found = self._all(FILES, FILES.c.owner == owner, FILES.c.file_id == file_id)
        return _read(File, found[0]) if found else None

    def all(self, owner: str) -> list[File]:
        """Oldest first."""
        return [_read(File, row) for row in self._all(FILES, FILES.c.owner == owner)]

    def expired(self, owner: str, now: float) -> list[File]:
        found = self._all(FILES, FILES.c.owner == owner, FILES.c.expires <= now)
        return [_read(File, row) for row in found]

    def content(self, file_id: str) -> Iterator[bytes]:
        """The bytes of a file that `get` has given, in pieces."""
        return pieces.read(self._engine, CONTENTS, file_id)

    def delete(self, owner: str, file_id: str) -> bool:
        """Whether there was one."""
        with self._engine.begin() as db:
            gone = db.execute(
                delete(FILES).where(FILES.c.owner == owner, FILES.c.file_id == file_id)
            )
        return gone.rowcount > 0

    # -- vector stores -----------------------------------------------------------------------------

    def keep(self, owner: str, kept: Kept) -> None:
        self._replace(KEPT, owner, kept)

    def kept(self, owner: str, base_id: str) -> Kept | None:
        found = self._all(KEPT, KEPT.c.owner == owner, KEPT.c.base_id == base_id)
        return _read(Kept, found[0]) if found else None

    def attach(self, owner: str, attached: Attached) -> None:
        self._replace(ATTACHED, owner, attached)

    def attached(self, owner: str, base_id: str) -> list[Attached]:
        found = self._all(ATTACHED, ATTACHED.c.owner == owner, ATTACHED.c.base_id == base_id)
        return [_read(Attached, row) for row in found]

    def places(self, owner: str, file_id: str) -> list[Attached]:
        """Where a file was put."""
        found = self._all(ATTACHED, ATTACHED.c.owner == owner, ATTACHED.c.file_id == file_id)
        return [_read(Attached, row) for row in found]

    def detach(self, owner: str, base_id: str, file_id: str) -> None:
        with self._engine.begin() as db:
            db.execute(
                delete(ATTACHED).where(
                    ATTACHED.c.owner == owner,
                    ATTACHED.c.base_id == base_id,
                    ATTACHED.c.file_id == file_id,
                )
            )

    def begin(self, owner: str, batch: Batch) -> None:
        """A new batch, or what is new of one."""
        self._replace(BATCHES, owner, batch)
        with self._engine.begin() as db:
            drop_oldest(db, BATCHES, MOST_BATCHES, BATCHES.c.base_id == batch.base_id)

    def batch(self, owner: str, batch_id: str) -> Batch | None:
        found = self._all(BATCHES, BATCHES.c.owner == owner, BATCHES.c.batch_id == batch_id)
        return _read(Batch, found[0]) if found else None

    def _all(self, table: Table, *where: ColumnElement[bool]) -> list[Row[Any]]:
        wanted = select(table).where(*where)
        if "created" in table.c:
            wanted = wanted.order_by(table.c.created)
        with self._engine.connect() as db:
            return list(db.execute(wanted))

    def _replace(self, table: Table, owner: str, value: Struct) -> None:
        """What is there under the value's key is replaced, if it is the owner's."""
        # Each by itself: to import the other costs as much as all the rest.
        dialect = import_module(f"sqlalchemy.dialects.{self._engine.dialect.name}")
        fields = structs.asdict(value)
        row = dialect.insert(table).values(owner=owner, **fields)
        replaced = row.on_conflict_do_update(
            index_elements=list(table.primary_key), set_=fields, where=table.c.owner == owner
        )
        with self._engine.begin() as db:
            db.execute(replaced)


def _read(kind: type[T], row: Row[Any]) -> T:
    values = row._asdict()
    del values["owner"]
    return kind(**values)
