"""Knowledge bases, documents, chunks and searches, as all APIs use them. Every call is for one
owner, and reports other owners' objects as NotFound. A caller's rights may leave out bases
(`within`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import partial
from io import SEEK_END, BytesIO
from typing import IO, TypeVar

from msgspec import structs

from ..accounts.rights import Permissions
from ..errors import BadRequest, BodyTooLarge, NotFound
from ..store.knowledge import KnowledgeStore
from ..store.records import Base, Chunk, Document, Job, Splitting, new_id
from .index import RERANKED, Index, reranked
from .index.records import Hit, IndexEntry, Rank
from .reading import kind

T = TypeVar("T")

LIFE = 86_400.0  # seconds until a temporary base expires
LONGEST = 200  # characters of a name
SMALLEST, LARGEST = 20, 100_000  # characters of a chunk
LOOK = 0.2  # seconds between two polls of a job


class Knowledge:
    """`wake` tells the reader of a new document; `most` is the size of a document in bytes."""

    def __init__(
        self,
        store: KnowledgeStore,
        index: Index,
        wake: Callable[[], None],
        most: int,
        rank: Rank | None = None,
        clock: Callable[[], float] = time.time,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._index = index
        self._wake = wake
        self._most = most
        self._rank = rank
        self._clock = clock
        self._pause = pause
        self._may: Permissions | None = None

    def within(self, may: Permissions) -> Knowledge:
        """The same for a caller with these rights, who may always use temporary bases."""
        bounded = copy(self)
        bounded._may = may
        return bounded

    # bases

    def bases(self, owner: str) -> tuple[Base, ...]:
        """Return all bases, also temporary ones, oldest first."""
        self._delete_expired()
        may = self._may
        return tuple(
            base
            for base in self._store.bases(owner)
            if may is None or base.temporary or may.permits_base(base.name, base.id)
        )

    def base(self, owner: str, id_or_name: str) -> Base:
        self._delete_expired()
        base = _existing(self._store.base(owner, id_or_name), "knowledge base", id_or_name)
        if self._may is not None and not base.temporary:
            self._may.check_base(id_or_name, base.name, base.id)
        return base

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
            id=new_id("vs_"),
            name=self._checked_name(name) if name or not temporary else "",
            info=info[:10_000],
            embedding_model=embedding_model or "",
            created=now,
            temporary=temporary,
            expires=now + LIFE if temporary else None,
        )
        self._store.add_base(owner, base)
        return base

    def rename(self, owner: str, base_id: str, name: str) -> Base:
        base = self.base(owner, base_id)
        self._store.change_base(owner, base.id, name=self._checked_name(name, base.id))
        return self.base(owner, base.id)

    def describe(self, owner: str, base_id: str, info: str) -> None:
        base = self.base(owner, base_id)
        self._store.change_base(owner, base.id, info=info[:10_000])

    def delete(self, owner: str, base_id: str) -> None:
        self._delete(owner, self.base(owner, base_id).id)
        self._index.shelf.purge()

    def delete_all(self, owner: str) -> int:
        """Delete all bases of the owner, with their traces in files; return how many there were."""
        bases = self.bases(owner)
        for base in bases:
            self._delete(owner, base.id)
        self._index.shelf.purge()
        self._store.purge()
        return len(bases)

    def _checked_name(self, name: str, *base_id: str) -> str:
        """The name for a base, which the caller may use under it."""
        checked = _named(name)
        if self._may is not None:
            self._may.check_base(checked, checked, *base_id)
        return checked

    def _delete(self, owner: str, base_id: str) -> None:
        self._store.delete_base(owner, base_id)
        self._index.shelf.drop(base=base_id)

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
        """Queue a document, read from `data`. `replace`: replace documents of the same name."""
        stream = BytesIO(data) if isinstance(data, bytes) else data
        size = stream.seek(0, SEEK_END)
        stream.seek(0)
        document = self._new(owner, base_id, filename, size, splitting)
        old = self._store.documents(owner, document.base_id) if replace else []
        gone = [former.id for former in old if former.filename == document.filename]
        self._store.add_document(owner, document, stream, gone)
        for document_id in gone:
            self._index.shelf.drop(document=document_id)
        self._wake()
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
        """Like `add`, for a file of OpenAI's API; its bytes are copied within the database."""
        document = self._new(owner, base_id, filename, size, splitting)
        if not self._store.add_file(owner, document, file_id):
            raise NotFound(f"no such file: {file_id[:100]!r}")
        self._wake()
        return document

    def read_again(
        self, owner: str, base_id: str, document_id: str, splitting: Splitting
    ) -> Document:
        document = self.document(owner, base_id, document_id)
        self._store.read_again(owner, document.id, _checked(splitting))
        self._wake()
        return self.document(owner, base_id, document_id)

    def _new(
        self, owner: str, base_id: str, filename: str, size: int, splitting: Splitting | None
    ) -> Document:
        base = self.base(owner, base_id)
        name = _named(filename)
        if not kind(name):
            raise BadRequest(f"{name[:100]!r}: unsupported file type", param="file")
        if size > self._most:
            raise BodyTooLarge(f"a document may be at most {self._most} bytes")
        cut = _checked(splitting or Splitting())
        return Document(
            id=new_id("doc_"),
            base_id=base.id,
            filename=name,
            size=size,
            created=self._clock(),
            chunk_size=cut.size,
            chunk_overlap=cut.overlap,
        )

    def documents(self, owner: str, base_id: str) -> tuple[Document, ...]:
        return tuple(self._store.documents(owner, self.base(owner, base_id).id))

    def document(self, owner: str, base_id: str, document_id: str) -> Document:
        base = self.base(owner, base_id)
        document = self._store.document(owner, document_id)
        in_it = document if document and document.base_id == base.id else None
        return _existing(in_it, "document", document_id)

    def _document(self, owner: str, document_id: str) -> Document:
        document = _existing(self._store.document(owner, document_id), "document", document_id)
        self._check(owner, document.base_id)
        return document

    def _check(self, owner: str, base_id: str) -> None:
        """Check that the caller may use the base of something that was found by its own id."""
        if self._may is not None:
            self.base(owner, base_id)

    def remove(self, owner: str, base_id: str, document_id: str) -> None:
        document = self.document(owner, base_id, document_id)
        self._store.delete_document(owner, document.id)
        self._index.shelf.drop(document=document.id)

    def original(self, owner: str, document_id: str) -> Iterator[bytes]:
        return self._store.original(self._document(owner, document_id).id)

    def cancel_document(self, owner: str, base_id: str, document_id: str) -> None:
        document = self.document(owner, base_id, document_id)
        self._store.cancel(owner, document.id)
        self._index.shelf.drop(document=document.id)

    # chunks

    def chunks(self, owner: str, document_id: str) -> tuple[Chunk, ...]:
        return tuple(self._store.chunks(owner, self._document(owner, document_id).id))

    def each_chunk(self, owner: str, document_id: str) -> Iterator[Chunk]:
        return self._store.chunks(owner, document_id)

    def edit_chunk(self, owner: str, chunk_id: str, text: str) -> None:
        """Replace a chunk's text, or delete it if empty; after an error nothing is changed."""
        chunk = _existing(self._store.chunk(owner, chunk_id), "chunk", chunk_id)
        self._check(owner, chunk.base_id)
        if text:
            entry = IndexEntry(chunk.id, chunk.document_id, text)
            model = self._store.model_of(chunk.base_id)
            index = self._index.prepared(chunk.base_id, [entry], model, wait=False)
        else:
            index = partial(self._index.shelf.drop, chunks=[chunk.id])
        self._store.change_chunk(chunk, text, index)

    # jobs

    def rebuild(self, owner: str, base_id: str, splitting: Splitting | None = None) -> Job:
        """Read all documents of a base again; with `splitting` None, each keeps its own."""
        base = self.base(owner, base_id)
        splitting = None if splitting is None else _checked(splitting)
        job = self._store.rebuild(owner, base.id, new_id("job_"), self._clock(), splitting)
        self._wake()
        return job

    def job(self, owner: str, job_id: str) -> Job:
        job = _existing(self._store.job(owner, job_id), "job", job_id)
        self._check(owner, job.base_id)
        return job

    def watch(self, owner: str, job_id: str) -> Iterator[Job]:
        """Yield the job whenever it changes, until it is finished."""
        last: Job | None = None
        while True:
            job = self.job(owner, job_id)
            if job != last:
                last = job
                yield job
            if job.status != "running":
                return
            self._pause(LOOK)

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
        """Return the best chunks of these bases, best first, only from the documents `files` if
        given. `score_threshold` is the minimum score, from 0 to 1. Without `rank`, no reranking."""
        ranks = self._rank if rank else None
        bases = [self.base(owner, base_id) for base_id in base_ids]
        candidates = self._index.search(
            [base.id for base in bases],
            query,
            top_k if ranks is None else max(top_k, RERANKED),
            documents=files,
            models=[base.embedding_model for base in bases],
        )
        texts = self._store.texts([candidate.chunk_id for candidate in candidates])
        hits = [
            Hit(**structs.asdict(candidate), **texts[candidate.chunk_id])
            for candidate in candidates
            if candidate.chunk_id in texts
        ]
        hits = reranked(ranks, query, hits)
        if score_threshold is not None:
            hits = [hit for hit in hits if hit.score >= score_threshold]
        return tuple(hits[:top_k])

    def _delete_expired(self) -> None:
        for owner, base_id in self._store.expired(self._clock()):
            self._delete(owner, base_id)


def _existing(value: T | None, what: str, id_: str) -> T:
    """Raises NotFound."""
    if value is None:
        raise NotFound(f"no such {what}: {id_[:100]!r}")
    return value


def _checked(splitting: Splitting) -> Splitting:
    """Raises BadRequest."""
    if not SMALLEST <= splitting.size <= LARGEST:
        raise BadRequest(
            f"the chunk size must be between {SMALLEST} and {LARGEST} characters",
            param="chunk_size",
        )
    # With more overlap, each chunk advances only a little, and storage is many times the document.
    if not 0 <= splitting.overlap <= splitting.size // 2:
        raise BadRequest(
            "the chunk overlap must not exceed half of the chunk size", param="chunk_overlap"
        )
    return splitting


def _named(name: str) -> str:
    """Check a name, which is only displayed and never used as a path. Raises BadRequest."""
    shown = "".join(
        c for c in name.replace("\\", "/").rpartition("/")[2] if c.isprintable()
    ).strip()
    if not shown or len(shown) > LONGEST:
        raise BadRequest(f"a name must have 1 to {LONGEST} characters", param="name")
    return shown
