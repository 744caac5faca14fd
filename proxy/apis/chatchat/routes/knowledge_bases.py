"""A caller's knowledge bases under Langchain-Chatchat's rules: bases and files have names.

Ids are accepted in place of names, so that addresses we return, such as downloads, need no names.
Files are read in the background. Here, a caller waits for its own files for a limited time, since
its client searches right after an upload.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import BytesIO
from typing import IO, TYPE_CHECKING

from flask import request

from ....errors import Forbidden, GatewayError, NotFound
from ....store.records import Base, Chunk, Document, Splitting
from ....web import permissions
from ....web.form import UploadedPart
from ....web.services import Services
from .. import bases
from .streaming import Documents
from .view import Taken

if TYPE_CHECKING:  # the extra `knowledge`
    from ....knowledge.index.records import Hit

PATIENCE = 120.0  # seconds an upload waits until its files are read
LOOK = 0.1
OVER = ("ready", "failed", "cancelled")
WRITTEN = (".txt", ".md")  # kinds of files whose chunks the client may write

Failures = list[tuple[str, str]]  # names and reasons


class OwnerBases:
    """The knowledge bases of one owner, as far as the caller of this request may use them. Raises
    Forbidden if knowledge bases are not available."""

    def __init__(self, services: Services, owner: str) -> None:
        knowledge = permissions.knowledge(services, request.environ)
        if knowledge is None:
            raise Forbidden(
                "knowledge bases are not available: install them with pip install"
                " slotproxy[knowledge]"
            )
        self.knowledge = knowledge
        self.owner = owner
        self._models = (services.local_embedder or services.embedder).registry.names

    def names(self) -> list[str]:
        return [one.name for one in self.knowledge.bases(self.owner) if not one.temporary]

    def create(self, name: str, model: str) -> BaseHandle:
        """Create a base. An unknown embedding model is the client's default and is ignored. Raises
        Taken."""
        if name in self.names():
            raise Taken(f"the knowledge base {name} already exists")
        known = model if model in self._models() else None
        return BaseHandle(self, self.knowledge.create(self.owner, name, embedding_model=known))

    def shelf(self, name: str) -> BaseHandle:
        """Return a base by name or id. Raises NotFound."""
        return BaseHandle(self, self.knowledge.base(self.owner, name))

    def shelf_or_new(self, name: str, model: str | None) -> BaseHandle:
        """Return a base, or create it with this embedding model ("": any) unless that is None."""
        try:
            return self.shelf(name)
        except NotFound:
            if model is None:
                raise
            return self.create(name, model)

    def temporary(self, base_id: str) -> BaseHandle:
        """Return the base for the files of one chat: a new one, or that of an earlier upload if its
        id is given. Raises NotFound."""
        if not base_id:
            return BaseHandle(self, self.knowledge.create(self.owner, "", temporary=True))
        base = self.knowledge.base(self.owner, base_id)
        if not base.temporary:
            raise NotFound(f"no such temporary knowledge base: {base_id[:100]!r}")
        return BaseHandle(self, base)


class BaseHandle:
    """One knowledge base."""

    def __init__(self, library: OwnerBases, base: Base) -> None:
        self._knowledge = library.knowledge
        self._owner = library.owner
        self._base = base

    @property
    def id(self) -> str:
        return self._base.id

    def delete(self) -> None:
        self._knowledge.delete(self._owner, self.id)

    def describe(self, info: str) -> None:
        self._knowledge.describe(self._owner, self.id, info)

    def names(self) -> list[str]:
        return [one.filename for one in self._documents()]

    def search(self, query: str, top_k: int, score: float | None) -> tuple[Hit, ...]:
        return self._knowledge.search(
            self._owner, [self.id], query, top_k=top_k, score_threshold=score
        )

    def chunks(self, name: str) -> tuple[Chunk, ...]:
        """Raises NotFound."""
        return self._knowledge.chunks(self._owner, self._document(name).id)

    def edit(self, chunk_id: str, text: str) -> None:
        """Replace a chunk's text; an empty text deletes the chunk. Raises NotFound."""
        self._knowledge.edit_chunk(self._owner, chunk_id, text)

    def original(self, name: str) -> tuple[str, int, Iterator[bytes]]:
        """Return a file's name, its size in bytes, and its bytes in pieces. Raises NotFound."""
        document = self._document(name)
        data = self._knowledge.original(self._owner, document.id)
        return document.filename, document.size, data

    # If a file fails, the following methods continue with the next one.

    def add(
        self, uploads: Iterable[UploadedPart], cut: bases.Splitting, *, replace: bool
    ) -> Failures:
        """Add files and wait until they are read."""
        there = set() if replace else set(self.names())
        named = {one.name: one.data for one in uploads}

        def add(name: str) -> Document:
            if name in there:
                raise Taken("a file with this name already exists")
            return self._add(name, named[name], cut, replace)

        return self._each_read(named, add)

    def again(self, names: Iterable[str], cut: bases.Splitting) -> Failures:
        """Read and split uploaded files again."""

        def again(name: str) -> Document:
            document = self._document(name)
            return self._knowledge.read_again(self._owner, self.id, document.id, _splitting(cut))

        return self._each_read(names, again)

    def write(self, pieces: Mapping[str, tuple[str, ...]]) -> Failures:
        """Add files whose chunks the client has written."""

        def write(name: str) -> Document:
            if not name.lower().endswith(WRITTEN):
                raise Taken(f"chunks may be supplied only for {' and '.join(WRITTEN)} files")
            texts = pieces[name]
            longest = max(map(len, texts), default=1)
            data = BytesIO("\n\n".join(texts).encode())
            return self._add(name, data, bases.Splitting(longest, 0), replace=True)

        return self._each_read(pieces, write)

    def remove(self, names: Iterable[str]) -> Failures:
        return _each(
            names,
            lambda name: self._knowledge.remove(self._owner, self.id, self._document(name).id),
        )

    def hide(self, names: Iterable[str]) -> Failures:
        """Keep the files, but exclude them from searches until they are read again."""

        def one(name: str) -> None:
            for chunk in self.chunks(name):
                self.edit(chunk.id, "")

        return _each(names, one)

    def rebuild(self, cut: bases.Splitting) -> Documents:
        """Read and split all files again, and yield a document for each step."""
        names = self.names()
        job_id = self._knowledge.rebuild(self._owner, self.id, _splitting(cut)).id
        reported = 0
        for job in self._knowledge.watch(self._owner, job_id):
            while reported < min(job.done, len(names)):
                yield bases.progress(len(names), reported, names[reported])
                reported += 1
        for document in self._documents():
            if document.status == "failed":
                yield bases.unreadable(document.filename, document.error)

    def _add(self, name: str, data: IO[bytes], cut: bases.Splitting, replace: bool) -> Document:
        return self._knowledge.add(
            self._owner, self.id, name, data, _splitting(cut), replace=replace
        )

    def _documents(self) -> tuple[Document, ...]:
        return self._knowledge.documents(self._owner, self.id)

    def _document(self, name: str) -> Document:
        """Return a document by name or id. Raises NotFound."""
        for one in self._documents():
            if name in (one.filename, one.id):
                return one
        raise NotFound(f"this knowledge base has no file {name[:200]}")

    def _each_read(self, names: Iterable[str], begin: Callable[[str], Document]) -> Failures:
        """Call `begin` for each name and wait until the documents are read; return the files that
        could not be read, with reasons."""
        began: list[Document] = []
        failed = _each(names, lambda name: began.append(begin(name)))
        end = time.monotonic() + PATIENCE
        for document in began:
            while document.status not in OVER and time.monotonic() < end:
                time.sleep(LOOK)
                document = self._knowledge.document(self._owner, self.id, document.id)
            if document.status not in OVER:
                failed.append((document.filename, "the file is still being processed"))
            elif document.status != "ready":
                failed.append(
                    (document.filename, document.error or "the document could not be read")
                )
        return failed


def _splitting(cut: bases.Splitting) -> Splitting:
    return Splitting(cut.size, cut.overlap)


def _each(names: Iterable[str], act: Callable[[str], None]) -> Failures:
    """Call `act` for each name; return the failed names with their errors."""
    failed = []
    for name in names:
        try:
            act(name)
        except GatewayError as error:
            failed.append((name, error.message))
    return failed
