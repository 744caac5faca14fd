"""Knowledge: what every API of ours does with bases, documents, chunks and searches.

Every call is for one owner, and sees nothing of another's: what is not the owner's is NotFound. A
document is read in the background (`reading`, `ingest`); the index is derived of its chunks.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from io import SEEK_END, BytesIO
from typing import IO, Protocol

from ..errors import BadRequest, BodyTooLarge, NotFound
from ..store.knowledge import KnowledgeStore
from .index import DEPTH, Entry, Index, Rank, distance, reranked
from .kinds import readable
from .values import Base, Chunk, Document, Hit, Job, Splitting

LIFE = 86_400.0  # seconds a temporary base is kept
LONGEST = 200  # characters of a name
AT_ONCE = 256  # chunks that are read together
SMALLEST, LARGEST = 20, 100_000  # characters of a chunk
LOOK = 0.2  # seconds between two looks at a job


class Wakes(Protocol):
    """Who reads documents."""

    def wake(self) -> None:
        """There is something to read."""


class Knowledge:
    """`most` is the largest document, in bytes; `rank` looks again at what was found. Raises, in
    every call, NotFound and BadRequest."""

    def __init__(
        self,
        store: KnowledgeStore,
        index: Index,
        reader: Wakes,
        most: int,
        rank: Rank | None = None,
        clock: Callable[[], float] = time.time,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._index = index
        self._reader = reader
        self._most = most
        self._rank = rank
        self._clock = clock
        self._pause = pause

    # bases

    def bases(self, owner: str) -> tuple[Base, ...]:
        """Oldest first, temporary ones too."""
        self._forget()
        return tuple(self._store.bases(owner))

    def base(self, owner: str, id_or_name: str) -> Base:
        self._forget()
        found = self._store.base(owner, id_or_name)
        if found is None:
            raise NotFound(f"there is no knowledge base {id_or_name[:100]!r}")
        return found

    def create(
        self,
        owner: str,
        name: str,
        info: str = "",
        embedding_model: str | None = None,
        temporary: bool = False,
    ) -> Base:
        now = self._clock()
        base = Base(
            _new("vs_"),
            _named(name) if name or not temporary else "",
            info[:10_000],
            embedding_model or "",
            now,
            temporary,
            now + LIFE if temporary else None,
        )
        self._store.add_base(owner, base)
        return base

    def rename(self, owner: str, base_id: str, name: str) -> Base:
        base = self.base(owner, base_id)
        self._store.change_base(owner, base.id, name=_named(name))
        return self.base(owner, base.id)

    def describe(self, owner: str, base_id: str, info: str) -> Base:
        base = self.base(owner, base_id)
        self._store.change_base(owner, base.id, info=info[:10_000])
        return self.base(owner, base.id)

    def delete(self, owner: str, base_id: str) -> None:
        base = self.base(owner, base_id)
        self._store.delete_base(owner, base.id)
        self._index.remove_base(base.id)
        self._index.purge()

    def delete_all(self, owner: str) -> int:
        """All bases; how many they were. No word of them stays in the files."""
        bases = self.bases(owner)
        for base in bases:
            self._store.delete_base(owner, base.id)
            self._index.remove_base(base.id)
        self._index.purge()
        self._store.purge()
        return len(bases)

    # documents

    def add(
        self,
        owner: str,
        base_id: str,
        filename: str,
        data: bytes | IO[bytes],
        splitting: Splitting | None = None,
        replace: bool = False,
    ) -> Document:
        """Queued for reading. `data` is read piece by piece, to its end. `replace`: instead of
        documents of the same name."""
        stream = BytesIO(data) if isinstance(data, bytes) else data
        size = stream.seek(0, SEEK_END)
        stream.seek(0)
        document = self._new(owner, base_id, filename, size, splitting)
        old = [
            one
            for one in self._store.documents(owner, document.base_id)
            if one.filename == document.filename
        ]
        gone = [one.id for one in old] if replace else []
        self._store.add_document(owner, document, stream, gone)
        for one in gone:
            self._index.remove(one)
        self._reader.wake()
        return document

    def add_file(
        self,
        owner: str,
        base_id: str,
        file_id: str,
        filename: str,
        size: int,
        splitting: Splitting | None = None,
    ) -> Document:
        """As `add`, of a file of OpenAI's API, whose bytes need not come here for it."""
        document = self._new(owner, base_id, filename, size, splitting)
        if not self._store.add_file(owner, document, file_id):
            raise NotFound(f"there is no file {file_id[:100]!r}")
        self._reader.wake()
        return document

    def read_again(
        self, owner: str, base_id: str, document_id: str, splitting: Splitting
    ) -> Document:
        """Queued again, to be split in another way."""
        document = self.document(owner, base_id, document_id)
        self._store.read_again(owner, document.id, _checked(splitting))
        self._reader.wake()
        return self.document(owner, base_id, document_id)

    def _new(
        self, owner: str, base_id: str, filename: str, size: int, splitting: Splitting | None
    ) -> Document:
        base = self.base(owner, base_id)
        name = _named(filename)
        if not readable(name):
            raise BadRequest(f"{name[:100]!r}: no kind of file that can be read", param="file")
        if size > self._most:
            raise BodyTooLarge(f"a document may have {self._most} bytes")
        cut = _checked(splitting or Splitting())
        return Document(_new("doc_"), base.id, name, size, created=self._clock(), splitting=cut)

    def documents(self, owner: str, base_id: str) -> tuple[Document, ...]:
        """Oldest first."""
        return tuple(self._store.documents(owner, self.base(owner, base_id).id))

    def document(self, owner: str, base_id: str, document_id: str) -> Document:
        base = self.base(owner, base_id)
        found = self._store.document(owner, document_id)
        if found is None or found.base_id != base.id:
            raise NotFound(f"there is no document {document_id[:100]!r}")
        return found

    def remove(self, owner: str, base_id: str, document_id: str) -> None:
        self._remove(owner, self.document(owner, base_id, document_id))

    def original(self, owner: str, document_id: str) -> Iterator[bytes]:
        """Its bytes, in pieces."""
        if self._store.document(owner, document_id) is None:
            raise NotFound(f"there is no document {document_id[:100]!r}")
        return self._store.original(document_id)

    def cancel_document(self, owner: str, base_id: str, document_id: str) -> None:
        """It is not read, or not to its end."""
        document = self.document(owner, base_id, document_id)
        self._store.cancel(owner, document_id=document.id)
        self._index.remove(document.id)

    # chunks

    def chunks(self, owner: str, document_id: str) -> tuple[Chunk, ...]:
        if self._store.document(owner, document_id) is None:
            raise NotFound(f"there is no document {document_id[:100]!r}")
        return tuple(self._store.chunks(owner, document_id))

    def each_chunk(self, owner: str, document_id: str) -> Iterator[Chunk]:
        """In their order, read some at a time: a document may have very many."""
        number = -1
        while some := self._store.chunks_behind(owner, document_id, number, AT_ONCE):
            yield from some
            number = some[-1].number

    def edit_chunk(self, owner: str, chunk_id: str, text: str) -> None:
        """An empty text takes it away. Raises what the embedding backend does, at once where that
        is down, and then has changed nothing."""
        chunk = self._store.chunk(owner, chunk_id)
        if chunk is None:
            raise NotFound(f"there is no chunk {chunk_id[:100]!r}")
        if text:
            entry = Entry(chunk.id, chunk.document_id, text)
            model = self._store.model_of(chunk.base_id)
            self._index.add(chunk.base_id, [entry], model, wait=False)
        else:
            self._index.remove_chunks([chunk.id])
        self._store.change_chunk(chunk, text)

    # jobs

    def rebuild(self, owner: str, base_id: str, splitting: Splitting | None = None) -> Job:
        """Read all documents of a base again; `splitting` None leaves each its own."""
        base = self.base(owner, base_id)
        splitting = None if splitting is None else _checked(splitting)
        job = Job(_new("job_"), base.id, "rebuild", "running", 0, 0, 0, self._clock())
        job = self._store.requeue(owner, job, splitting)
        self._reader.wake()
        return job

    def job(self, owner: str, job_id: str) -> Job:
        found = self._store.job(owner, job_id)
        if found is None:
            raise NotFound(f"there is no job {job_id[:100]!r}")
        return found

    def watch(self, owner: str, job_id: str) -> Iterator[Job]:
        """The job whenever it has changed, until it is over."""
        told: Job | None = None
        while True:
            job = self.job(owner, job_id)
            if job != told:
                told = job
                yield job
            if job.status != "running":
                return
            self._pause(LOOK)

    def cancel(self, owner: str, job_id: str) -> Job:
        self.job(owner, job_id)
        self._store.cancel(owner, job_id=job_id)
        return self.job(owner, job_id)

    # search

    def search(
        self,
        owner: str,
        base_ids: Sequence[str],
        query: str,
        top_k: int = 3,
        score_threshold: float | None = None,
        files: Sequence[str] | None = None,
        rank: bool = True,
    ) -> tuple[Hit, ...]:
        """The best chunks of these bases, best first; of the documents `files` alone, if given.
        `score_threshold` is the least score, from 0 to 1. Unless `rank`, no ranking model looks."""
        ranks = self._rank if rank else None
        bases = [self.base(owner, one) for one in base_ids]
        found = self._index.search(
            [base.id for base in bases],
            query,
            top_k if ranks is None else max(top_k, DEPTH),
            documents=files,
            models=[base.embedding_model for base in bases],
        )
        chunks = self._store.chunks_of([one.chunk_id for one in found])
        names = self._store.named({one.document_id for one in found})
        known = [one for one in found if one.chunk_id in chunks and one.document_id in names]
        hits = []
        for one, score in reranked(ranks, query, known, lambda found: chunks[found.chunk_id].text):
            score = one.score if score is None else score
            if score_threshold is None or score >= score_threshold:
                chunk = chunks[one.chunk_id]
                hits.append(
                    Hit(
                        one.chunk_id,
                        one.document_id,
                        one.base_id,
                        names[one.document_id],
                        chunk.text,
                        chunk.place,
                        score,
                        distance(score),
                        one.lexical_rank,
                        one.vector_rank,
                    )
                )
        return tuple(hits[:top_k])

    def _remove(self, owner: str, document: Document) -> None:
        self._store.delete_document(owner, document.id)
        self._index.remove(document.id)

    def _forget(self) -> None:
        """Temporary bases whose time is over."""
        for owner, base_id in self._store.expired(self._clock()):
            self._store.delete_base(owner, base_id)
            self._index.remove_base(base_id)


def _new(prefix: str) -> str:
    return prefix + uuid.uuid4().hex[:24]


def _checked(splitting: Splitting) -> Splitting:
    """Raises BadRequest."""
    if not SMALLEST <= splitting.size <= LARGEST:
        raise BadRequest(f"chunks have {SMALLEST} to {LARGEST} characters", param="chunk_size")
    # With more, each chunk goes on by little, and what is stored is many times the document.
    if not 0 <= splitting.overlap <= splitting.size // 2:
        raise BadRequest("chunks overlap by half of their size at most", param="chunk_overlap")
    return splitting


def _named(name: str) -> str:
    """A name to show, never a path. Raises BadRequest."""
    shown = "".join(
        c for c in name.replace("\\", "/").rpartition("/")[2] if c.isprintable()
    ).strip()
    if not shown or len(shown) > LONGEST:
        raise BadRequest(f"a name has 1 to {LONGEST} characters", param="name")
    return shown
