"""OpenAI's view of the knowledge bases: vector stores, and files that are put into them.

A vector store is a base, and what one API puts in, the other finds. What OpenAI's has beyond a base
(files apart from bases, their attributes, batches, expiry) is kept beside it by `FileStore`. A
document that came in another way appears here as a file under the document's id, without
attributes.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import SEEK_END
from typing import IO, Any

from msgspec.structs import replace

from ..errors import BadRequest, NotFound
from ..store.files import Attached, Batch, File, FileStore, Kept
from .members import Member, as_file, put_in, refused
from .service import Knowledge
from .values import Base, Hit, Splitting

HOUR, DAY = 3600, 86_400  # seconds
UNNAMED = "vector store"
CHARACTERS = 3  # of a token, between English's four and Chinese's one and a half


class VectorStores:
    """Every call is for one owner, and sees nothing of another's: what is not the owner's is
    NotFound. `clock` gives seconds since 1970."""

    def __init__(
        self, knowledge: Knowledge, files: FileStore, clock: Callable[[], float] = time.time
    ) -> None:
        self._knowledge = knowledge
        self._files = files
        self._clock = clock

    # -- files -------------------------------------------------------------------------------------

    def upload(
        self, owner: str, filename: str, purpose: str, data: IO[bytes], lasts: int | None
    ) -> File:
        """`data` is read piece by piece, to its end."""
        now = self._clock()
        expires = None if lasts is None else now + lasts
        size = data.seek(0, SEEK_END)
        data.seek(0)
        file = File(_new("file-"), filename, purpose, size, now, expires)
        self._files.put(owner, file, data)
        return file

    def files(self, owner: str) -> list[File]:
        """Oldest first."""
        for one in self._files.expired(owner, self._clock()):
            self.delete_file(owner, one.file_id)
        return self._files.all(owner)

    def file(self, owner: str, file_id: str) -> File:
        found = self._files.get(owner, file_id)
        if found is None:
            raise NotFound(f"there is no file {file_id[:100]!r}")
        if found.expires is not None and found.expires <= self._clock():
            self.delete_file(owner, file_id)
            raise NotFound(f"the file {file_id[:100]!r} has expired")
        return found

    def content(self, owner: str, file_id: str) -> tuple[File, Iterator[bytes]]:
        """A file and its bytes, in pieces."""
        return self.file(owner, file_id), self._files.content(file_id)

    def delete_file(self, owner: str, file_id: str) -> None:
        """The file, wherever it was put."""
        for one in self._files.places(owner, file_id):
            self._leave(owner, one.base_id, one.document_id)
            self._files.detach(owner, one.base_id, file_id)
        if not self._files.delete(owner, file_id):
            raise NotFound(f"there is no file {file_id[:100]!r}")

    # -- vector stores -----------------------------------------------------------------------------

    def create(
        self,
        owner: str,
        name: str,
        description: str,
        metadata: Mapping[str, str],
        lasts: int | None,
    ) -> tuple[Base, Kept]:
        base = self._knowledge.create(owner, name or UNNAMED, info=description)
        kept = Kept(base.id, dict(metadata), lasts, self._clock())
        self._files.keep(owner, kept)
        return base, kept

    def stores(self, owner: str) -> list[tuple[Base, Kept]]:
        """Oldest first."""
        bases = [one for one in self._knowledge.bases(owner) if not one.temporary]
        bases.sort(key=lambda one: one.created)
        return [(one, self._kept(owner, one)) for one in bases]

    def store(self, owner: str, base_id: str) -> tuple[Base, Kept]:
        base = self._knowledge.base(owner, base_id)
        return base, self._kept(owner, base)

    def change(
        self,
        owner: str,
        base_id: str,
        name: str | None,
        metadata: Mapping[str, str] | None,
        lasts: int | None,
    ) -> tuple[Base, Kept]:
        """None leaves a thing as it is; `lasts` 0 takes the expiry away."""
        base, kept = self.store(owner, base_id)
        if name is not None and name != base.name:
            base = self._knowledge.rename(owner, base.id, name)
        if metadata is not None:
            kept = replace(kept, metadata=dict(metadata))
        if lasts is not None:
            kept = replace(kept, lasts=lasts or None, active=self._clock())
        self._files.keep(owner, kept)
        return base, kept

    def delete(self, owner: str, base_id: str) -> str:
        base = self._knowledge.base(owner, base_id)
        self._knowledge.delete(owner, base.id)
        return base.id

    def has_expired(self, kept: Kept) -> bool:
        return kept.lasts is not None and kept.active + kept.lasts * DAY <= self._clock()

    # -- files in vector stores --------------------------------------------------------------------

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
    ) -> Member:
        """Take a file in; one that is there already is read anew. Chunks have `tokens` tokens, and
        repeat `overlap` of the last one; if `auto`, as many as a base of ours usually has."""
        base = self._knowledge.base(owner, base_id)
        file = self.file(owner, file_id)
        for one in self._files.places(owner, file_id):
            if one.base_id == base.id:
                self._leave(owner, base.id, one.document_id)
        splitting = None if auto else Splitting(tokens * CHARACTERS, overlap * CHARACTERS)
        document, error = None, ""
        try:
            document = self._knowledge.add_file(
                owner, base.id, file_id, file.filename, file.size, splitting
            )
        except BadRequest as fault:  # one file of a batch that is refused is one failed file
            error = fault.message
        attached = Attached(
            base.id,
            file_id,
            document.id if document else "",
            batch_id,
            dict(attributes),
            tokens,
            overlap,
            self._clock(),
            error,
        )
        self._files.attach(owner, attached)
        self._touch(owner, self._kept(owner, base))
        return as_file(document, attached) if document else refused(file, attached)

    def members(self, owner: str, base_id: str, batch_id: str = "") -> list[Member]:
        """Oldest first; of one batch alone, if given."""
        found = self._members(owner, self._knowledge.base(owner, base_id))
        return [one for one in found if not batch_id or one.batch_id == batch_id]

    def _members(self, owner: str, base: Base) -> list[Member]:
        attached = self._files.attached(owner, base.id)
        known = {one.document_id: one for one in attached}
        found = [
            as_file(document, known[document.id]) if document.id in known else put_in(document)
            for document in self._knowledge.documents(owner, base.id)
        ]
        files = {one.file_id: one for one in self._files.all(owner)} if "" in known else {}
        found += [
            refused(files[one.file_id], one)
            for one in attached
            if not one.document_id and one.file_id in files
        ]
        return sorted(found, key=lambda one: one.created)

    def member(self, owner: str, base_id: str, file_id: str) -> Member:
        for one in self.members(owner, base_id):
            if one.file_id == file_id:
                return one
        raise NotFound(f"there is no file {file_id[:100]!r} in this vector store")

    def describe(
        self, owner: str, base_id: str, file_id: str, attributes: Mapping[str, Any]
    ) -> Member:
        """Other attributes for a file."""
        member = self.member(owner, base_id, file_id)
        base = self._knowledge.base(owner, base_id)
        for one in self._files.attached(owner, base.id):
            if one.file_id == file_id:
                self._files.attach(owner, replace(one, attributes=dict(attributes)))
                return replace(member, attributes=dict(attributes))
        raise BadRequest("this document was put in another way, and has no attributes")

    def texts(self, owner: str, base_id: str, file_id: str) -> list[str]:
        """A file's chunks, in their order."""
        member = self.member(owner, base_id, file_id)
        if not member.document_id:
            return []
        return [chunk.text for chunk in self._knowledge.chunks(owner, member.document_id)]

    def detach(self, owner: str, base_id: str, file_id: str) -> None:
        """Out of this vector store; the file itself stays."""
        member = self.member(owner, base_id, file_id)
        base = self._knowledge.base(owner, base_id)
        self._leave(owner, base.id, member.document_id)
        self._files.detach(owner, base.id, file_id)

    # -- batches -----------------------------------------------------------------------------------

    def begin(self, owner: str, base_id: str, file_ids: Iterable[str]) -> Batch:
        """A batch that is to take these files in; each of them is `attach`ed by its caller."""
        base = self._knowledge.base(owner, base_id)
        for file_id in file_ids:
            self.file(owner, file_id)  # all are there, or nothing is begun
        batch = Batch(_new("vsfb_"), base.id, self._clock())
        self._files.begin(owner, batch)
        return batch

    def batch(self, owner: str, base_id: str, batch_id: str) -> Batch:
        base = self._knowledge.base(owner, base_id)
        found = self._files.batch(owner, batch_id)
        if found is None or found.base_id != base.id:
            raise NotFound(f"there is no batch {batch_id[:100]!r} in this vector store")
        return found

    def cancel(self, owner: str, base_id: str, batch_id: str) -> Batch:
        """Files that are not read yet will not be."""
        batch = self.batch(owner, base_id, batch_id)
        open_ = [
            one for one in self.members(owner, base_id, batch_id) if one.status == "in_progress"
        ]
        for one in open_:
            self._knowledge.cancel_document(owner, batch.base_id, one.document_id)
        if open_:
            batch = replace(batch, cancelled=True)
            self._files.begin(owner, batch)
        return batch

    # -- search ------------------------------------------------------------------------------------

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
    ) -> list[tuple[Hit, Member | None]]:
        """The best hits with the files they are in; of files whose attributes are `wanted` alone.
        `threshold` is of the score, from 0 to 1."""
        known: dict[str, Member] = {}
        for base_id in base_ids:
            base, kept = self.store(owner, base_id)
            if self.has_expired(kept):
                raise BadRequest("the vector store has expired")
            self._touch(owner, kept)
            known |= {one.document_id: one for one in self._members(owner, base)}
        files = None
        if wanted is not None:
            files = [one.document_id for one in known.values() if wanted(one.attributes)]
            if not files:
                return []
        best: dict[str, Hit] = {}
        for query in queries:
            for hit in self._knowledge.search(
                owner, base_ids, query, most, threshold, files=files, rank=rank
            ):
                if hit.chunk_id not in best or best[hit.chunk_id].score < hit.score:
                    best[hit.chunk_id] = hit
        found = list(best.values())
        if len(queries) > 1:
            found.sort(key=lambda hit: -hit.score)
        return [(hit, known.get(hit.document_id)) for hit in found[:most]]

    def _kept(self, owner: str, base: Base) -> Kept:
        return self._files.kept(owner, base.id) or Kept(base.id, {}, None, base.created)

    def _touch(self, owner: str, kept: Kept) -> None:
        """It is used. The expiry counts days, so not every search needs to write."""
        now = self._clock()
        if now - kept.active >= HOUR:
            self._files.keep(owner, replace(kept, active=now))

    def _leave(self, owner: str, base_id: str, document_id: str) -> None:
        """A document that is gone already is no fault."""
        try:
            self._knowledge.remove(owner, base_id, document_id)
        except NotFound:
            return


def _new(prefix: str) -> str:
    return f"{prefix}{uuid.uuid4().hex[:24]}"
