"""OpenAI's vector stores and their files. A vector store is a knowledge base, and both APIs see the
same documents; a document of another API appears as a file with its id.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from io import SEEK_END
from typing import IO, Any

from msgspec import structs
from msgspec.structs import replace

from ..accounts.rights import Permissions
from ..errors import BadRequest, NotFound
from ..store.file_store import Attached, Batch, FileStore, StoredFile, StoredVectorStore
from ..store.records import Base, Document, Splitting, new_id
from .index.records import Hit
from .service import Knowledge

STATUS = {"ready": "completed", "failed": "failed", "cancelled": "cancelled"}


class VectorStoreFile(Attached, frozen=True, kw_only=True):
    """A document with its data in OpenAI's API, and OpenAI's `status`."""

    filename: str
    status: str
    size: int


def _member(
    document: Document | None, attached: Attached | None, file: StoredFile | None = None
) -> VectorStoreFile:
    """A document as a file, or the `file` that could not become a document."""
    if document is None:
        assert attached is not None and file is not None, "one of them is there"
        fields = structs.asdict(attached) | {"document_id": ""}
        return VectorStoreFile(**fields, filename=file.filename, status="failed", size=file.size)
    entry = attached or Attached(
        base_id=document.base_id,
        file_id=document.id,
        document_id=document.id,
        created=document.created,
    )
    fields = structs.asdict(entry) | {"document_id": document.id, "error": document.error}
    status = STATUS.get(document.status, "in_progress")
    return VectorStoreFile(**fields, filename=document.filename, status=status, size=document.size)


HOUR, DAY = 3600, 86_400  # seconds
UNNAMED = "vector store"
CHARACTERS = 3  # per token: between English's four and Chinese's one and a half


class VectorStores:
    """Every call is for one owner, and reports other owners' objects as NotFound."""

    def __init__(
        self, knowledge: Knowledge, files: FileStore, clock: Callable[[], float] = time.time
    ) -> None:
        self._knowledge = knowledge
        self._whole = knowledge  # without a caller's bounds, for what expires
        self._files = files
        self._clock = clock

    def within(self, may: Permissions) -> VectorStores:
        """The same for a caller with these rights; see `Knowledge.within`."""
        bounded = copy(self)
        bounded._knowledge = self._knowledge.within(may)
        return bounded

    def upload(
        self, owner: str, filename: str, purpose: str, data: IO[bytes], lasts: int | None
    ) -> StoredFile:
        """Store a file. `data` is read in pieces, to its end."""
        now = self._clock()
        file = StoredFile(
            file_id=new_id("file-"),
            filename=filename,
            purpose=purpose,
            size=data.seek(0, SEEK_END),
            created=now,
            expires=None if lasts is None else now + lasts,
        )
        data.seek(0)
        self._files.put(owner, file, data)
        return file

    def files(self, owner: str) -> list[StoredFile]:
        for file in self._files.expired(owner, self._clock()):
            self._delete_file(owner, file.file_id)
        return self._files.all(owner)

    def file(self, owner: str, file_id: str) -> StoredFile:
        file = self._files.get(owner, file_id)
        if file is None:
            raise NotFound(f"no such file: {file_id[:100]!r}")
        if file.expires is not None and file.expires <= self._clock():
            self._delete_file(owner, file_id)
            raise NotFound(f"the file {file_id[:100]!r} has expired")
        return file

    def content(self, owner: str, file_id: str) -> tuple[StoredFile, Iterator[bytes]]:
        return self.file(owner, file_id), self._files.content(file_id)

    def delete_file(self, owner: str, file_id: str) -> None:
        """Delete a file from everywhere; the caller must be able to use all its vector stores."""
        for entry in self._files.attached(owner, file_id=file_id):
            with suppress(NotFound):  # it may already be deleted
                self._knowledge.base(owner, entry.base_id)
        if not self._delete_file(owner, file_id):
            raise NotFound(f"no such file: {file_id[:100]!r}")

    def delete_all_files(self, owner: str) -> int:
        """Delete all files, and return how many there were. They leave all vector stores."""
        files = self.files(owner)
        for file in files:
            self._delete_file(owner, file.file_id)
        return len(files)

    def _delete_file(self, owner: str, file_id: str) -> bool:
        """False if another request has deleted it."""
        for entry in self._files.attached(owner, file_id=file_id):
            with suppress(NotFound):  # it may already be deleted
                self._whole.remove(owner, entry.base_id, entry.document_id)
            self._files.detach(owner, entry.base_id, file_id)
        return self._files.delete(owner, file_id)

    def create(
        self,
        owner: str,
        name: str,
        description: str,
        metadata: Mapping[str, str],
        lasts: int | None,
    ) -> tuple[Base, StoredVectorStore]:
        base = self._knowledge.create(owner, name or UNNAMED, info=description)
        stored = StoredVectorStore(base.id, dict(metadata), lasts, self._clock())
        self._files.put_store(owner, stored)
        return base, stored

    def stores(self, owner: str) -> list[tuple[Base, StoredVectorStore]]:
        bases = [base for base in self._knowledge.bases(owner) if not base.temporary]
        return [(base, self._kept(owner, base)) for base in bases]

    def store(self, owner: str, base_id: str) -> tuple[Base, StoredVectorStore]:
        base = self._knowledge.base(owner, base_id)
        return base, self._kept(owner, base)

    def change(
        self,
        owner: str,
        base_id: str,
        name: str | None,
        metadata: Mapping[str, str] | None,
        lasts: int | None,
    ) -> tuple[Base, StoredVectorStore]:
        """Change a vector store. None keeps a value; `lasts` 0 removes the expiry."""
        base, stored = self.store(owner, base_id)
        if name is not None and name != base.name:
            base = self._knowledge.rename(owner, base.id, name)
        if metadata is not None:
            stored = replace(stored, metadata=dict(metadata))
        if lasts is not None:
            stored = replace(stored, lasts=lasts or None, active=self._clock())
        self._files.put_store(owner, stored)
        return base, stored

    def delete(self, owner: str, base_id: str) -> str:
        base = self._knowledge.base(owner, base_id)
        self._knowledge.delete(owner, base.id)
        return base.id

    def has_expired(self, stored: StoredVectorStore) -> bool:
        return stored.lasts is not None and stored.active + stored.lasts * DAY <= self._clock()

    def attach(
        self,
        owner: str,
        base_id: str,
        file_id: str,
        attributes: Mapping[str, Any],
        tokens: int,
        overlap: int,
        *,
        auto: bool,
        batch_id: str = "",
    ) -> VectorStoreFile:
        """Add a file, or read it again if it is there already. Chunks have `tokens` tokens and
        repeat `overlap` of the previous chunk; with `auto`, they have the default size of bases."""
        base = self._knowledge.base(owner, base_id)
        file = self.file(owner, file_id)
        for entry in self._files.attached(owner, base_id=base.id, file_id=file_id):
            self._leave(owner, base.id, entry.document_id)
        splitting = None if auto else Splitting(tokens * CHARACTERS, overlap * CHARACTERS)
        document, error = None, ""
        try:
            document = self._knowledge.add_file(
                owner, base.id, file_id, file.filename, file.size, splitting
            )
        except BadRequest as fault:  # a refused file of a batch is a failed file
            error = fault.message
        attached = Attached(
            base_id=base.id,
            file_id=file_id,
            document_id=document.id if document else "",
            batch_id=batch_id,
            attributes=dict(attributes),
            tokens=tokens,
            overlap=overlap,
            created=self._clock(),
            error=error,
        )
        self._files.attach(owner, attached)
        self._touch(owner, self._kept(owner, base))
        return _member(document, attached, file)

    def members(self, owner: str, base_id: str, batch_id: str = "") -> list[VectorStoreFile]:
        """Return the files, oldest first, only those of one batch if given."""
        members = self._members(owner, self._knowledge.base(owner, base_id))
        return [member for member in members if not batch_id or member.batch_id == batch_id]

    def _members(self, owner: str, base: Base) -> list[VectorStoreFile]:
        attached = self._files.attached(owner, base_id=base.id)
        by_document = {entry.document_id: entry for entry in attached}
        members = [
            _member(document, by_document.get(document.id))
            for document in self._knowledge.documents(owner, base.id)
        ]
        files = {file.file_id: file for file in self._files.all(owner)} if "" in by_document else {}
        members += [
            _member(None, entry, files[entry.file_id])
            for entry in attached
            if not entry.document_id and entry.file_id in files
        ]
        return sorted(members, key=lambda member: member.created)

    def member(self, owner: str, base_id: str, file_id: str) -> VectorStoreFile:
        for member in self.members(owner, base_id):
            if member.file_id == file_id:
                return member
        raise NotFound(f"this vector store has no file {file_id[:100]!r}")

    def describe(
        self, owner: str, base_id: str, file_id: str, attributes: Mapping[str, Any]
    ) -> VectorStoreFile:
        member = self.member(owner, base_id, file_id)
        for entry in self._files.attached(owner, base_id=member.base_id, file_id=file_id):
            self._files.attach(owner, replace(entry, attributes=dict(attributes)))
            return replace(member, attributes=dict(attributes))
        raise BadRequest(
            "this document was not added through the vector store API and has no attributes"
        )

    def texts(self, owner: str, base_id: str, file_id: str) -> list[str]:
        member = self.member(owner, base_id, file_id)
        if not member.document_id:
            return []
        return [chunk.text for chunk in self._knowledge.chunks(owner, member.document_id)]

    def detach(self, owner: str, base_id: str, file_id: str) -> None:
        """Remove a file from this vector store; the file itself stays."""
        member = self.member(owner, base_id, file_id)
        self._leave(owner, member.base_id, member.document_id)
        self._files.detach(owner, member.base_id, file_id)

    def begin(self, owner: str, base_id: str, file_ids: Iterable[str]) -> Batch:
        """Create a batch for these files. The caller then calls `attach` for each."""
        base = self._knowledge.base(owner, base_id)
        for file_id in file_ids:
            self.file(owner, file_id)  # raises before anything is created
        batch = Batch(new_id("vsfb_"), base.id, self._clock())
        self._files.put_batch(owner, batch)
        return batch

    def batch(self, owner: str, base_id: str, batch_id: str) -> Batch:
        base = self._knowledge.base(owner, base_id)
        batch = self._files.batch(owner, batch_id)
        if batch is None or batch.base_id != base.id:
            raise NotFound(f"this vector store has no file batch {batch_id[:100]!r}")
        return batch

    def cancel(self, owner: str, base_id: str, batch_id: str) -> Batch:
        batch = self.batch(owner, base_id, batch_id)
        members = self.members(owner, base_id, batch_id)
        open_ = [member for member in members if member.status == "in_progress"]
        for member in open_:
            self._knowledge.cancel_document(owner, batch.base_id, member.document_id)
        if open_:
            batch = replace(batch, cancelled=True)
            self._files.put_batch(owner, batch)
        return batch

    def search(
        self,
        owner: str,
        base_ids: Sequence[str],
        queries: Sequence[str],
        most: int,
        threshold: float = 0.0,
        wanted: Callable[[Mapping[str, Any]], bool] | None = None,
        *,
        rank: bool = True,
    ) -> list[tuple[Hit, VectorStoreFile | None]]:
        """Return the best hits with their files, if their attributes match `wanted`."""
        members: dict[str, VectorStoreFile] = {}
        for base_id in base_ids:
            base, stored = self.store(owner, base_id)
            if self.has_expired(stored):
                raise BadRequest("the vector store has expired")
            self._touch(owner, stored)
            members |= {member.document_id: member for member in self._members(owner, base)}
        files = None
        if wanted is not None:
            files = [key for key, member in members.items() if wanted(member.attributes)]
            if not files:
                return []
        best: dict[str, Hit] = {}
        for query in queries:
            for hit in self._knowledge.search(
                owner, base_ids, query, most, threshold, files=files, rank=rank
            ):
                if hit.chunk_id not in best or best[hit.chunk_id].score < hit.score:
                    best[hit.chunk_id] = hit
        hits = list(best.values())
        if len(queries) > 1:
            hits.sort(key=lambda hit: -hit.score)
        return [(hit, members.get(hit.document_id)) for hit in hits[:most]]

    def _kept(self, owner: str, base: Base) -> StoredVectorStore:
        return self._files.get_store(owner, base.id) or StoredVectorStore(
            base.id, {}, None, base.created
        )

    def _touch(self, owner: str, stored: StoredVectorStore) -> None:
        """Note that the store is used. Expiry counts days, so not every search writes."""
        now = self._clock()
        if now - stored.active >= HOUR:
            self._files.put_store(owner, replace(stored, active=now))

    def _leave(self, owner: str, base_id: str, document_id: str) -> None:
        """Remove a document; it may already be deleted."""
        with suppress(NotFound):
            self._knowledge.remove(owner, base_id, document_id)
