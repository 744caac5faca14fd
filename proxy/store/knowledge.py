"""Knowledge bases, documents, chunks and jobs. Calls see only the rows of their owner."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import IO, Any

from msgspec.structs import asdict
from sqlalchemy import Connection, Update, case, delete, func, insert, or_, select, update

from . import file_store
from .database import Database, owned, record
from .quota import MOST_BASES, MOST_JOBS, UNLIMITED, Quota, check_count, drop_oldest
from .records import Base, Chunk, Document, Job, Splitting
from .tables import BASE, CHUNK, CONTENTS, DOCUMENT, FILES, JOB, ORIGINAL

AT_ONCE = 256  # chunks read together
OVER = ("ready", "failed", "cancelled")
QUEUED = {"status": "queued", "error": "", "done": 0.0, "reader": ""}
_COUNT = (
    select(func.count()).where(DOCUMENT.c.base_id == BASE.c.id).scalar_subquery().label("documents")
)
# When each owner was served last. A subquery is a cycle: made each time, it would wait for the
# garbage collector.
_SERVED = (
    select(DOCUMENT.c.owner, func.max(DOCUMENT.c.beat).label("last"))
    .group_by(DOCUMENT.c.owner)
    .subquery()
)
_CHUNKS = select(CHUNK, DOCUMENT.c.base_id).join(DOCUMENT, DOCUMENT.c.id == CHUNK.c.document_id)


class KnowledgeStore:
    def __init__(self, database: Database, quota: Quota = UNLIMITED) -> None:
        self._db = database
        self._quota = quota

    # bases

    def add_base(self, owner: str, base: Base) -> None:
        """Raises QuotaExceeded."""
        values = asdict(base)
        del values["documents"]
        with self._db.begin_for(owner) as db:
            db.execute(insert(BASE).values(owner=owner, **values))
            refusal = "an API key may have at most {} knowledge bases: delete some"
            check_count(db, BASE, MOST_BASES, refusal, BASE.c.owner == owner)

    def bases(self, owner: str) -> list[Base]:
        query = select(BASE, _COUNT).where(BASE.c.owner == owner).order_by(BASE.c.created)
        return self._db.records(Base, query)

    def base(self, owner: str, id_or_name: str) -> Base | None:
        named = or_(BASE.c.id == id_or_name, BASE.c.name == id_or_name)
        query = select(BASE, _COUNT).where(BASE.c.owner == owner, named)
        query = query.order_by(case((BASE.c.id == id_or_name, 0), else_=1), BASE.c.created)
        return self._db.one(Base, query)

    def change_base(self, owner: str, base_id: str, **values: Any) -> bool:
        change = update(BASE).where(owned(BASE, owner, base_id)).values(**values)
        return self._db.change(change) > 0

    def delete_base(self, owner: str, base_id: str) -> bool:
        return self._db.change(delete(BASE).where(owned(BASE, owner, base_id))) > 0

    def expired(self, now: float) -> list[tuple[str, str]]:
        """Return (owner, base) of the expired bases."""
        query = select(BASE.c.owner, BASE.c.id).where(BASE.c.expires <= now)
        return [(row.owner, row.id) for row in self._db.rows(query)]

    # documents

    def add_document(
        self, owner: str, document: Document, data: IO[bytes], instead_of: Collection[str] = ()
    ) -> None:
        """Add a document. Raises QuotaExceeded, and then does not replace older documents."""
        with self._db.begin_for(owner) as db:
            if instead_of:
                replaced = DOCUMENT.c.id.in_(list(instead_of))
                db.execute(delete(DOCUMENT).where(DOCUMENT.c.owner == owner, replaced))
            self._add(db, owner, document)
            file_store.put_pieces(db, ORIGINAL, document.id, data)

    def add_file(self, owner: str, document: Document, file_id: str) -> bool:
        """Add a document with the bytes of an uploaded file; return whether the owner has it."""
        own_file = select(FILES.c.file_id).filter_by(owner=owner, file_id=file_id)
        with self._db.begin_for(owner) as db:
            if db.execute(own_file).first() is None:
                return False
            self._add(db, owner, document)
            file_store.copy(db, ORIGINAL, document.id, CONTENTS, file_id)
        return True

    def _add(self, db: Connection, owner: str, document: Document) -> None:
        values = asdict(document)
        db.execute(insert(DOCUMENT).values(owner=owner, reader="", beat=0.0, **values))
        self._quota.check(db, owner)

    def documents(self, owner: str, base_id: str) -> list[Document]:
        query = select(DOCUMENT).filter_by(owner=owner, base_id=base_id)
        query = query.order_by(DOCUMENT.c.created, DOCUMENT.c.id)
        return self._db.records(Document, query)

    def document(self, owner: str, document_id: str) -> Document | None:
        return self._db.one(Document, select(DOCUMENT).where(owned(DOCUMENT, owner, document_id)))

    def original(self, document_id: str) -> Iterator[bytes]:
        """Return a document's bytes in pieces. The caller must have checked the owner."""
        return file_store.read(self._db, ORIGINAL, document_id)

    def delete_document(self, owner: str, document_id: str) -> bool:
        return self._db.change(delete(DOCUMENT).where(owned(DOCUMENT, owner, document_id))) > 0

    def read_again(self, owner: str, document_id: str, splitting: Splitting) -> bool:
        """Queue a document again; return whether it exists."""
        again = update(DOCUMENT).where(owned(DOCUMENT, owner, document_id))
        return self._db.change(again.values(**QUEUED, **_columns(splitting))) > 0

    def cancel(self, owner: str, document_id: str) -> None:
        unread = owned(DOCUMENT, owner, document_id) & DOCUMENT.c.status.not_in(OVER)
        self._db.change(update(DOCUMENT).where(unread).values(status="cancelled", reader=""))

    def purge(self) -> None:
        self._db.purge()

    # chunks

    def chunks(self, owner: str, document_id: str) -> Iterator[Chunk]:
        """Yield the chunks in order. They are read in parts, as a document may have very many."""
        query = _CHUNKS.where(DOCUMENT.c.owner == owner, CHUNK.c.document_id == document_id)
        rows = self._db.in_parts(query, CHUNK.c.number, AT_ONCE)
        return (record(Chunk, row) for row in rows)

    def texts(self, chunk_ids: Collection[str]) -> dict[str, dict[str, Any]]:
        """Return filename, text and place of these chunks, by their ids."""
        query = select(CHUNK.c.id, DOCUMENT.c.filename, CHUNK.c.text, CHUNK.c.place)
        query = query.join(DOCUMENT, DOCUMENT.c.id == CHUNK.c.document_id)
        rows = self._db.rows(query.where(CHUNK.c.id.in_(list(chunk_ids))))
        names = ("filename", "text", "place")
        return {row.id: {name: getattr(row, name) for name in names} for row in rows}

    def ready(self) -> list[tuple[str, str, int]]:
        """Return (document, base, number of chunks) of all documents that are ready."""
        query = select(DOCUMENT.c.id, DOCUMENT.c.base_id, func.count().label("size"))
        query = query.join(CHUNK, CHUNK.c.document_id == DOCUMENT.c.id)
        query = query.where(DOCUMENT.c.status == "ready")
        rows = self._db.rows(query.group_by(DOCUMENT.c.id, DOCUMENT.c.base_id))
        return [(row.id, row.base_id, row.size) for row in rows]

    def chunks_in(self, document_id: str) -> list[Chunk]:
        return self._db.records(Chunk, _CHUNKS.where(CHUNK.c.document_id == document_id))

    def chunk(self, owner: str, chunk_id: str) -> Chunk | None:
        query = _CHUNKS.where(DOCUMENT.c.owner == owner, CHUNK.c.id == chunk_id)
        return self._db.one(Chunk, query)

    def change_chunk(self, chunk: Chunk, text: str, index: Callable[[], None]) -> None:
        """Replace a chunk's text; an empty text deletes the chunk. `index` changes the index in the
        same way: it is called within the transaction, and its error undoes the change."""
        with self._db.begin() as db:
            if text:
                db.execute(update(CHUNK).where(CHUNK.c.id == chunk.id).values(text=text))
            else:
                db.execute(delete(CHUNK).where(CHUNK.c.id == chunk.id))
                document = update(DOCUMENT).where(DOCUMENT.c.id == chunk.document_id)
                db.execute(document.values(chunks=DOCUMENT.c.chunks - 1))
            index()

    # jobs

    def rebuild(
        self, owner: str, base_id: str, job_id: str, now: float, splitting: Splitting | None = None
    ) -> Job:
        """Queue all documents of a base again. With `splitting` None, each keeps its own."""
        documents = update(DOCUMENT).filter_by(owner=owner, base_id=base_id)
        with self._db.begin() as db:
            values: dict[str, Any] = {**QUEUED, "job_id": job_id}
            if splitting is not None:
                values |= _columns(splitting)
            total = db.execute(documents.values(**values)).rowcount
            ids = {"id": job_id, "base_id": base_id, "owner": owner}
            new = insert(JOB).values(kind="rebuild", total=total, cancelled=False, created=now)
            db.execute(new.values(**ids))
            drop_oldest(db, JOB, MOST_JOBS, JOB.c.base_id == base_id)
        job = self.job(owner, job_id)
        assert job is not None, "it was written just now"
        return job

    def job(self, owner: str, job_id: str) -> Job | None:
        with self._db.begin() as db:
            row = db.execute(select(JOB).where(owned(JOB, owner, job_id))).first()
            if row is None:
                return None
            counts = select(DOCUMENT.c.status, func.count()).where(DOCUMENT.c.job_id == job_id)
            by_status = {row[0]: row[1] for row in db.execute(counts.group_by(DOCUMENT.c.status))}
        open_ = sum(count for status, count in by_status.items() if status not in OVER)
        return record(
            Job,
            row,
            status="running" if open_ else "done",
            done=row.total - open_,
            failed=by_status.get("failed", 0),
        )

    # for readers of documents

    def claim(self, reader: str, now: float, stale: float) -> tuple[str, Document] | None:
        """Claim the next document, as (owner, document): the oldest of the owner served least
        recently. One without a heartbeat since `stale` may be taken over."""
        lost = (DOCUMENT.c.status == "reading") & (DOCUMENT.c.beat < stale)
        next_ = select(DOCUMENT.c.id).join(_SERVED, _SERVED.c.owner == DOCUMENT.c.owner)
        next_ = next_.where(or_(DOCUMENT.c.status == "queued", lost))
        next_ = next_.order_by(_SERVED.c.last, DOCUMENT.c.created).limit(1)
        if self._db.engine.dialect.name == "postgresql":
            next_ = next_.with_for_update(skip_locked=True, of=DOCUMENT)
        values = {"status": "reading", "reader": reader, "beat": now, "done": 0.0, "error": ""}
        claim = update(DOCUMENT).where(DOCUMENT.c.id == next_.scalar_subquery()).values(**values)
        row = self._db.first(claim.returning(*DOCUMENT.c))
        return None if row is None else (row.owner, record(Document, row))

    def release(self, readers: Collection[str]) -> None:
        """Queue the documents of these dead readers again."""
        reading = update(DOCUMENT).where(DOCUMENT.c.reader.in_(list(readers)))
        self._db.change(reading.filter_by(status="reading").values(status="queued", reader=""))

    def readers(self) -> set[str]:
        query = select(DOCUMENT.c.reader).where(DOCUMENT.c.status == "reading").distinct()
        return {row.reader for row in self._db.rows(query)}

    def beat(self, document: Document, reader: str, now: float) -> bool:
        """Send a heartbeat; return whether this reader still has the document."""
        return self._db.change(_read_by(document, reader).values(beat=now)) > 0

    def begin(self, document: Document, reader: str) -> bool:
        """Delete chunks of an earlier reading; False if the reader lost it."""
        self._db.change(delete(CHUNK).where(CHUNK.c.document_id == document.id))
        return self._db.change(_read_by(document, reader).values(chunks=0)) > 0

    def progress(
        self, document: Document, reader: str, chunks: Sequence[Chunk], done: float, now: float
    ) -> bool:
        """Store these chunks; nothing, and False, if the reader lost it."""
        rows = [asdict(chunk) for chunk in chunks]
        for row in rows:
            del row["base_id"]
        change = _read_by(document, reader)
        change = change.values(chunks=DOCUMENT.c.chunks + len(rows), done=done, beat=now)
        with self._db.begin() as db:
            if not db.execute(change).rowcount:
                return False
            if rows:
                db.execute(insert(CHUNK), rows)
        return True

    def finish(self, document: Document, reader: str, error: str = "") -> bool:
        """Mark the document as ready or failed; return whether this reader still had it."""
        values = {"status": "failed", "error": error} if error else {"status": "ready", "done": 1.0}
        return self._db.change(_read_by(document, reader).values(reader="", **values)) > 0

    def model_of(self, base_id: str) -> str:
        row = self._db.first(select(BASE.c.embedding_model).where(BASE.c.id == base_id))
        return row.embedding_model if row else ""


def _read_by(document: Document, reader: str) -> Update:
    """A change of a document that this reader still has."""
    return update(DOCUMENT).filter_by(id=document.id, status="reading", reader=reader)


def _columns(splitting: Splitting) -> dict[str, int]:
    return {"chunk_size": splitting.size, "chunk_overlap": splitting.overlap}
