"""A scripted stand-in for `Knowledge`: bases in memory, files read at once, words found as they
stand. A file whose bytes begin with BROKEN cannot be read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import IO

from msgspec.structs import replace

from proxy.errors import NotFound
from proxy.knowledge.index.records import Hit
from proxy.store.records import Base, Chunk, Document, Job, Splitting

BROKEN = b"BROKEN"


class InMemory:
    """The facade as far as pages and dialects use it. `calls` are the names of what was called."""

    def __init__(self) -> None:
        self._bases: dict[str, tuple[str, Base]] = {}
        self._documents: dict[str, Document] = {}
        self._data: dict[str, bytes] = {}
        self._chunks: dict[str, Chunk] = {}
        self._ids = itertools.count(1)

    def _id(self, kind: str) -> str:
        return f"{kind}_{next(self._ids)}"

    def bases(self, owner: str) -> tuple[Base, ...]:
        return tuple(base for whose, base in self._bases.values() if whose == owner)

    def create(
        self,
        owner: str,
        name: str,
        info: str = "",
        embedding_model: str | None = None,
        temporary: bool = False,
    ) -> Base:
        base = Base(
            id=self._id("kb"),
            name=name,
            info=info,
            embedding_model=embedding_model or "",
            temporary=temporary,
        )
        self._bases[base.id] = owner, base
        return base

    def base(self, owner: str, id_or_name: str) -> Base:
        for one in self.bases(owner):
            if id_or_name in (one.id, one.name):
                return one
        raise NotFound("there is no such knowledge base")

    def describe(self, owner: str, base_id: str, info: str) -> Base:
        base = replace(self.base(owner, base_id), info=info)
        self._bases[base.id] = owner, base
        return base

    def delete(self, owner: str, base_id: str) -> None:
        base = self.base(owner, base_id)
        for one in self.documents(owner, base.id):
            self.remove(owner, base.id, one.id)
        del self._bases[base.id]

    def add(
        self,
        owner: str,
        base_id: str,
        filename: str,
        data: bytes | IO[bytes],
        splitting: Splitting | None = None,
        replace: bool = False,
    ) -> Document:
        base = self.base(owner, base_id)
        for one in self.documents(owner, base.id):
            if one.filename == filename and replace:
                self.remove(owner, base.id, one.id)
        cut = splitting or Splitting()
        data = data if isinstance(data, bytes) else data.read()
        broken = data.startswith(BROKEN)
        document = Document(
            id=self._id("doc"),
            base_id=base.id,
            filename=filename,
            size=len(data),
            status="failed" if broken else "ready",
            error="the file is damaged" if broken else "",
            chunk_size=cut.size,
            chunk_overlap=cut.overlap,
        )
        self._documents[document.id] = document
        self._data[document.id] = data
        text = "" if broken else data.decode()
        for number, at in enumerate(range(0, len(text), cut.size)):
            piece, key = text[at : at + cut.size], self._id("chunk")
            self._chunks[key] = Chunk(
                id=key,
                document_id=document.id,
                base_id=base.id,
                number=number,
                text=piece,
                place=f"piece {number}",
            )
        return document

    def documents(self, owner: str, base_id: str) -> tuple[Document, ...]:
        base = self.base(owner, base_id)
        return tuple(one for one in self._documents.values() if one.base_id == base.id)

    def document(self, owner: str, base_id: str, document_id: str) -> Document:
        return next(one for one in self.documents(owner, base_id) if one.id == document_id)

    def remove(self, owner: str, base_id: str, document_id: str) -> None:
        del self._documents[document_id], self._data[document_id]
        self._chunks = {k: c for k, c in self._chunks.items() if c.document_id != document_id}

    def original(self, owner: str, document_id: str) -> Iterator[bytes]:
        return iter([self._data[document_id]])

    def read_again(
        self, owner: str, base_id: str, document_id: str, splitting: Splitting
    ) -> Document:
        old = self.document(owner, base_id, document_id)
        data = self._data[document_id]
        return self.add(owner, base_id, old.filename, data, splitting, replace=True)

    def chunks(self, owner: str, document_id: str) -> tuple[Chunk, ...]:
        return tuple(one for one in self._chunks.values() if one.document_id == document_id)

    def edit_chunk(self, owner: str, chunk_id: str, text: str) -> None:
        chunk = self._chunks.get(chunk_id)
        if chunk is None:
            raise NotFound("there is no such chunk")
        self.base(owner, chunk.base_id)
        if text:
            self._chunks[chunk_id] = replace(chunk, text=text)
        else:
            del self._chunks[chunk_id]

    def rebuild(self, owner: str, base_id: str, splitting: Splitting | None = None) -> Job:
        total = len(self.documents(owner, base_id))
        return Job(
            id="job_1",
            base_id=base_id,
            kind="rebuild",
            status="running",
            total=total,
            done=0,
            failed=0,
            created=0.0,
        )

    def watch(self, owner: str, job_id: str) -> Iterator[Job]:
        base = next(base for whose, base in self._bases.values() if whose == owner)
        job = self.rebuild(owner, base.id)
        for done in range(job.total + 1):
            status = "done" if done == job.total else "running"
            yield replace(job, done=done, status=status)

    def search(
        self,
        owner: str,
        base_ids: Sequence[str],
        query: str,
        top_k: int = 3,
        score_threshold: float | None = None,
        files: Sequence[str] | None = None,
    ) -> tuple[Hit, ...]:
        ids = {self.base(owner, one).id for one in base_ids}
        found = [
            Hit(
                chunk_id=one.id,
                document_id=one.document_id,
                base_id=one.base_id,
                filename=self._documents[one.document_id].filename,
                text=one.text,
                place=one.place,
                score=0.75,
            )
            for one in self._chunks.values()
            if one.base_id in ids and query in one.text and (score_threshold or 0) <= 0.75
        ]
        return tuple(found[:top_k])
