"""Bases, documents, chunks and jobs as rows. Every call names an owner and sees that owner's alone,
but for those of who reads documents: it reads whatever is queued."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import IO, Any

from sqlalchemy import Connection, case, delete, func, insert, or_, select, update
from sqlalchemy.engine import Row

from ..knowledge.values import Base, Chunk, Document, Job, Splitting
from . import pieces
from .database import Database
from .quota import MOST_BASES, MOST_JOBS, Quota, check_count, drop_oldest
from .tables import BASE, CHUNK, CONTENTS, DOCUMENT, FILES, JOB, ORIGINAL

OVER = ("ready", "failed", "cancelled")
QUEUED = {"status": "queued", "error": "", "done": 0.0, "reader": ""}
_COUNT = (
    select(func.count()).where(DOCUMENT.c.base_id == BASE.c.id).scalar_subquery().label("documents")
)


class KnowledgeStore:
    def __init__(self, database: Database, quota: Quota = Quota()) -> None:  # noqa: B008
        self._db = database
        self._quota = quota

    # bases

    def add_base(self, owner: str, base: Base) -> None:
        """Raises QuotaExceeded."""
        values = {name: getattr(base, name) for name in BASE.c.keys() if name != "owner"}  # noqa: SIM118
        with self._db.begin() as db:
            db.execute(insert(BASE).values(owner=owner, **values))
            told = f"a key may have {MOST_BASES} knowledge bases and vector stores: delete some"
            check_count(db, BASE, MOST_BASES, told, BASE.c.owner == owner)

    def bases(self, owner: str) -> list[Base]:
        """Oldest first."""
        query = select(BASE, _COUNT).where(BASE.c.owner == owner).order_by(BASE.c.created)
        with self._db.begin() as db:
            return [_base(row) for row in db.execute(query)]

    def base(self, owner: str, id_or_name: str) -> Base | None:
        """An id goes before a name."""
        named = or_(BASE.c.id == id_or_name, BASE.c.name == id_or_name)
        query = select(BASE, _COUNT).where(BASE.c.owner == owner, named)
        query = query.order_by(case((BASE.c.id == id_or_name, 0), else_=1), BASE.c.created)
        with self._db.begin() as db:
            row = db.execute(query).first()
        return None if row is None else _base(row)

    def change_base(self, owner: str, base_id: str, **values: Any) -> bool:
        where = (BASE.c.owner == owner, BASE.c.id == base_id)
        with self._db.begin() as db:
            return db.execute(update(BASE).where(*where).values(**values)).rowcount > 0

    def delete_base(self, owner: str, base_id: str) -> bool:
        where = (BASE.c.owner == owner, BASE.c.id == base_id)
        with self._db.begin() as db:
            return db.execute(delete(BASE).where(*where)).rowcount > 0

    def expired(self, now: float) -> list[tuple[str, str]]:
        """(owner, base) of what is to be forgotten."""
        query = select(BASE.c.owner, BASE.c.id).where(BASE.c.expires <= now)
        with self._db.begin() as db:
            return [(row[0], row[1]) for row in db.execute(query)]

    # documents

    def add_document(
        self,
        owner: str,
        document: Document,
        data: IO[bytes],
        instead_of: Collection[str] = (),
    ) -> None:
        """Raises QuotaExceeded, and then leaves those that it was to replace."""
        with self._db.begin() as db:
            if instead_of:
                mine = (DOCUMENT.c.owner == owner, DOCUMENT.c.id.in_(list(instead_of)))
                db.execute(delete(DOCUMENT).where(*mine))
            self._add(db, owner, document)
            pieces.put(db, ORIGINAL, document.id, data)

    def add_file(self, owner: str, document: Document, file_id: str) -> bool:
        """A document of the same bytes as an uploaded file. Whether the owner has this file. Raises
        QuotaExceeded."""
        mine = select(FILES.c.file_id).where(FILES.c.owner == owner, FILES.c.file_id == file_id)
        with self._db.begin() as db:
            if db.execute(mine).first() is None:
                return False
            self._add(db, owner, document)
            pieces.copy(db, ORIGINAL, document.id, CONTENTS, file_id)
        return True

    def _add(self, db: Connection, owner: str, document: Document) -> None:
        values = _columns(document)
        db.execute(insert(DOCUMENT).values(owner=owner, reader="", beat=0.0, **values))
        self._quota.check(db, owner)

    def documents(self, owner: str, base_id: str) -> list[Document]:
        """Oldest first."""
        where = (DOCUMENT.c.owner == owner, DOCUMENT.c.base_id == base_id)
        query = select(DOCUMENT).where(*where).order_by(DOCUMENT.c.created, DOCUMENT.c.id)
        with self._db.begin() as db:
            return [_document(row) for row in db.execute(query)]

    def document(self, owner: str, document_id: str) -> Document | None:
        where = (DOCUMENT.c.owner == owner, DOCUMENT.c.id == document_id)
        with self._db.begin() as db:
            row = db.execute(select(DOCUMENT).where(*where)).first()
        return None if row is None else _document(row)

    def named(self, document_ids: Collection[str]) -> dict[str, str]:
        """File names by id."""
        where = DOCUMENT.c.id.in_(list(document_ids))
        with self._db.begin() as db:
            rows = db.execute(select(DOCUMENT.c.id, DOCUMENT.c.filename).where(where))
            return {row[0]: row[1] for row in rows}

    def original(self, document_id: str) -> Iterator[bytes]:
        """The bytes of a document that the caller may see, in pieces."""
        return pieces.read(self._db.engine, ORIGINAL, document_id)

    def delete_document(self, owner: str, document_id: str) -> bool:
        where = (DOCUMENT.c.owner == owner, DOCUMENT.c.id == document_id)
        with self._db.begin() as db:
            return db.execute(delete(DOCUMENT).where(*where)).rowcount > 0

    def read_again(self, owner: str, document_id: str, splitting: Splitting) -> bool:
        """Queue it anew. Whether there is one."""
        where = (DOCUMENT.c.owner == owner, DOCUMENT.c.id == document_id)
        cut = {"chunk_size": splitting.size, "chunk_overlap": splitting.overlap}
        with self._db.begin() as db:
            return db.execute(update(DOCUMENT).where(*where).values(**QUEUED, **cut)).rowcount > 0

    def cancel(self, owner: str, *, document_id: str = "", job_id: str = "") -> None:
        """What of it is not over will not be read."""
        which = DOCUMENT.c.id == document_id if document_id else DOCUMENT.c.job_id == job_id
        open_ = DOCUMENT.c.status.not_in(OVER)
        with self._db.begin() as db:
            values = {"status": "cancelled", "reader": ""}
            db.execute(
                update(DOCUMENT).where(DOCUMENT.c.owner == owner, which, open_).values(**values)
            )
            if job_id:
                where = (JOB.c.owner == owner, JOB.c.id == job_id)
                db.execute(update(JOB).where(*where).values(cancelled=True))

    def purge(self) -> None:
        """What was deleted leaves the files."""
        self._db.purge()

    # chunks

    def chunks(self, owner: str, document_id: str) -> list[Chunk]:
        query = _chunks().where(DOCUMENT.c.owner == owner, CHUNK.c.document_id == document_id)
        with self._db.begin() as db:
            return [_chunk(row) for row in db.execute(query.order_by(CHUNK.c.number))]

    def chunks_behind(self, owner: str, document_id: str, number: int, most: int) -> list[Chunk]:
        """The next ones in their order; `number` -1: the first."""
        query = _chunks().where(DOCUMENT.c.owner == owner, CHUNK.c.document_id == document_id)
        query = query.where(CHUNK.c.number > number).order_by(CHUNK.c.number).limit(most)
        with self._db.begin() as db:
            return [_chunk(row) for row in db.execute(query)]

    def chunks_of(self, chunk_ids: Collection[str]) -> dict[str, Chunk]:
        with self._db.begin() as db:
            rows = db.execute(_chunks().where(CHUNK.c.id.in_(list(chunk_ids))))
            return {row.id: _chunk(row) for row in rows}

    def ready(self) -> list[tuple[str, str, int]]:
        """(document, its base, its chunks) of all that were read, of every owner."""
        query = (
            select(DOCUMENT.c.id, DOCUMENT.c.base_id, func.count())
            .join(CHUNK, CHUNK.c.document_id == DOCUMENT.c.id)
            .where(DOCUMENT.c.status == "ready")
            .group_by(DOCUMENT.c.id, DOCUMENT.c.base_id)
        )
        with self._db.begin() as db:
            return [(row[0], row[1], row[2]) for row in db.execute(query)]

    def chunks_in(self, document_id: str) -> list[Chunk]:
        """Whoever's it is."""
        query = _chunks().where(CHUNK.c.document_id == document_id)
        with self._db.begin() as db:
            return [_chunk(row) for row in db.execute(query)]

    def chunk(self, owner: str, chunk_id: str) -> Chunk | None:
        query = _chunks().where(DOCUMENT.c.owner == owner, CHUNK.c.id == chunk_id)
        with self._db.begin() as db:
            row = db.execute(query).first()
        return None if row is None else _chunk(row)

    def change_chunk(self, chunk: Chunk, text: str) -> None:
        """An empty text takes it away."""
        with self._db.begin() as db:
            if text:
                db.execute(update(CHUNK).where(CHUNK.c.id == chunk.id).values(text=text))
                return
            db.execute(delete(CHUNK).where(CHUNK.c.id == chunk.id))
            left = {"chunks": DOCUMENT.c.chunks - 1}
            db.execute(update(DOCUMENT).where(DOCUMENT.c.id == chunk.document_id).values(**left))

    # jobs

    def requeue(self, owner: str, job: Job, splitting: Splitting | None = None) -> Job:
        """All documents of the job's base are to be read again, as this job; `splitting` None
        leaves each its own."""
        where = (DOCUMENT.c.owner == owner, DOCUMENT.c.base_id == job.base_id)
        with self._db.begin() as db:
            values: dict[str, Any] = {**QUEUED, "job_id": job.id}
            if splitting is not None:
                values |= {"chunk_size": splitting.size, "chunk_overlap": splitting.overlap}
            total = db.execute(update(DOCUMENT).where(*where).values(**values)).rowcount
            db.execute(
                insert(JOB).values(
                    id=job.id,
                    base_id=job.base_id,
                    owner=owner,
                    kind=job.kind,
                    total=total,
                    cancelled=False,
                    created=job.created,
                )
            )
            drop_oldest(db, JOB, MOST_JOBS, JOB.c.base_id == job.base_id)
        found = self.job(owner, job.id)
        assert found is not None, "it was written just now"
        return found

    def job(self, owner: str, job_id: str) -> Job | None:
        with self._db.begin() as db:
            where = (JOB.c.owner == owner, JOB.c.id == job_id)
            row = db.execute(select(JOB).where(*where)).first()
            if row is None:
                return None
            counts = select(DOCUMENT.c.status, func.count()).where(DOCUMENT.c.job_id == job_id)
            by_status = {one[0]: one[1] for one in db.execute(counts.group_by(DOCUMENT.c.status))}
        open_ = sum(count for status, count in by_status.items() if status not in OVER)
        return Job(
            row.id,
            row.base_id,
            row.kind,
            "cancelled" if row.cancelled else "running" if open_ else "done",
            row.total,
            row.total - open_,
            by_status.get("failed", 0),
            row.created,
        )

    # for who reads documents

    def claim(self, reader: str, now: float, stale: float) -> tuple[str, Document] | None:
        """(owner, document): the next one to read, now ours: the oldest of the owner whose turn it
        is, which is the one that was served longest ago. One whose reader gave no sign of life
        since `stale` may be taken over."""
        free = or_(
            DOCUMENT.c.status == "queued",
            (DOCUMENT.c.status == "reading") & (DOCUMENT.c.beat < stale),
        )
        served = (
            select(DOCUMENT.c.owner, func.max(DOCUMENT.c.beat).label("last"))
            .group_by(DOCUMENT.c.owner)
            .subquery()
        )
        next_ = (
            select(DOCUMENT.c.id)
            .join(served, served.c.owner == DOCUMENT.c.owner)
            .where(free)
            .order_by(served.c.last, DOCUMENT.c.created)
            .limit(1)
        )
        if self._db.engine.dialect.name == "postgresql":
            next_ = next_.with_for_update(skip_locked=True, of=DOCUMENT)
        values = {"status": "reading", "reader": reader, "beat": now, "done": 0.0, "error": ""}
        taken = update(DOCUMENT).where(DOCUMENT.c.id == next_.scalar_subquery()).values(**values)
        with self._db.begin() as db:
            row = db.execute(taken.returning(*DOCUMENT.c)).first()
        return None if row is None else (row.owner, _document(row))

    def let_go(self, readers: Collection[str]) -> None:
        """What these were reading is queued again: they are gone."""
        where = (DOCUMENT.c.status == "reading", DOCUMENT.c.reader.in_(list(readers)))
        with self._db.begin() as db:
            db.execute(update(DOCUMENT).where(*where).values(status="queued", reader=""))

    def readers(self) -> set[str]:
        query = select(DOCUMENT.c.reader).where(DOCUMENT.c.status == "reading").distinct()
        with self._db.begin() as db:
            return {row[0] for row in db.execute(query)}

    def beat(self, document: Document, reader: str, now: float) -> bool:
        """A sign of life. Whether it is still ours to read."""
        with self._db.begin() as db:
            return self._ours(db, document, reader, {"beat": now})

    def begin(self, document: Document, reader: str) -> bool:
        """Forget the chunks of an earlier reading. Whether it is still ours to read."""
        with self._db.begin() as db:
            db.execute(delete(CHUNK).where(CHUNK.c.document_id == document.id))
            return self._ours(db, document, reader, {"chunks": 0})

    def progress(
        self, document: Document, reader: str, chunks: Sequence[Chunk], done: float, now: float
    ) -> bool:
        """Keep these chunks. Whether it is still ours to read; if not, nothing is kept."""
        with self._db.begin() as db:
            values = {"chunks": DOCUMENT.c.chunks + len(chunks), "done": done, "beat": now}
            if not self._ours(db, document, reader, values):
                return False
            rows = [
                {"id": c.id, "document_id": c.document_id, "number": c.number, "text": c.text}
                | {"place": c.place}
                for c in chunks
            ]
            if rows:
                db.execute(insert(CHUNK), rows)
            return True

    def finish(self, document: Document, reader: str, error: str = "") -> bool:
        """It is ready; or it failed, for this reason. Whether it was still ours."""
        values = {"status": "failed" if error else "ready", "error": error, "reader": ""}
        with self._db.begin() as db:
            return self._ours(db, document, reader, values | ({} if error else {"done": 1.0}))

    def model_of(self, base_id: str) -> str:
        with self._db.begin() as db:
            where = BASE.c.id == base_id
            return db.execute(select(BASE.c.embedding_model).where(where)).scalar() or ""

    @staticmethod
    def _ours(db: Connection, document: Document, reader: str, values: dict[str, Any]) -> bool:
        mine = (
            DOCUMENT.c.id == document.id,
            DOCUMENT.c.status == "reading",
            DOCUMENT.c.reader == reader,
        )
        return db.execute(update(DOCUMENT).where(*mine).values(**values)).rowcount > 0


def _chunks() -> Any:
    return select(CHUNK, DOCUMENT.c.base_id).join(DOCUMENT, DOCUMENT.c.id == CHUNK.c.document_id)


def _base(row: Row[Any]) -> Base:
    return Base(
        row.id,
        row.name,
        row.info,
        row.embedding_model,
        row.created,
        row.temporary,
        row.expires,
        row.documents,
    )


def _document(row: Row[Any]) -> Document:
    return Document(
        row.id,
        row.base_id,
        row.filename,
        row.size,
        row.status,
        row.error,
        row.done,
        row.chunks,
        row.created,
        Splitting(row.chunk_size, row.chunk_overlap),
        row.job_id,
    )


def _columns(document: Document) -> dict[str, Any]:
    return {
        "id": document.id,
        "base_id": document.base_id,
        "filename": document.filename,
        "size": document.size,
        "status": document.status,
        "error": document.error,
        "done": document.done,
        "chunks": document.chunks,
        "created": document.created,
        "chunk_size": document.splitting.size,
        "chunk_overlap": document.splitting.overlap,
        "job_id": document.job_id,
    }


def _chunk(row: Row[Any]) -> Chunk:
    return Chunk(row.id, row.document_id, row.base_id, row.number, row.text, row.place)
