"""A caller's knowledge bases as Langchain-Chatchat sees them: bases and files have names.

Ids are taken where names are, so that what we hand out, a download's address say, needs no name.
Files are read in the background; here a caller waits until its own are, for a bounded time, since
its client searches as soon as an upload is answered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import BytesIO
from typing import IO, NamedTuple

from ...dialects.chatchat import bases
from ...errors import Forbidden, GatewayError, NotFound
from ...knowledge.values import Base, Chunk, Document, Hit, Splitting
from ..services import Services
from .spoken import Documents
from .view import Taken

PATIENCE = 120.0  # seconds an upload waits for its files to be read
LOOK = 0.1
OVER = ("ready", "failed", "cancelled")
WRITTEN = (".txt", ".md")  # kinds of files whose chunks may be handed in

Failures = list[tuple[str, str]]  # names and reasons


class Upload(NamedTuple):
    name: str
    data: IO[bytes]


class Library:
    """The bases of one owner. Raises Forbidden where there are none at all."""

    def __init__(self, here: Services, owner: str) -> None:
        if here.knowledge is None:
            raise Forbidden("there are no knowledge bases here: pip install slotproxy[knowledge]")
        self.knowledge = here.knowledge
        self.owner = owner
        self._models = here.embedder.registry.names

    def names(self) -> list[str]:
        return [one.name for one in self.knowledge.bases(self.owner) if not one.temporary]

    def create(self, name: str, model: str) -> Shelf:
        """An embedding model we have not is the client's own default, and means nothing here.
        Raises Taken."""
        if name in self.names():
            raise Taken(f"there is a knowledge base {name} already")
        known = model if model in self._models() else None
        return Shelf(self, self.knowledge.create(self.owner, name, embedding_model=known))

    def shelf(self, name: str) -> Shelf:
        """A base by its name or id. Raises NotFound."""
        return Shelf(self, self.knowledge.base(self.owner, name))

    def shelf_or_new(self, name: str, model: str | None) -> Shelf:
        """One that is not there is made with this embedding model ("": any), unless that is None.
        Raises NotFound."""
        try:
            return self.shelf(name)
        except NotFound:
            if model is None:
                raise
            return self.create(name, model)

    def temporary(self, base_id: str) -> Shelf:
        """A base for files of one chat, that of an earlier upload where its id is given. Raises
        NotFound."""
        if not base_id:
            return Shelf(self, self.knowledge.create(self.owner, "", temporary=True))
        base = self.knowledge.base(self.owner, base_id)
        if not base.temporary:
            raise NotFound(f"there is no temporary knowledge base {base_id[:100]!r}")
        return Shelf(self, base)


class Shelf:
    """One base."""

    def __init__(self, library: Library, base: Base) -> None:
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
        """An empty text takes the chunk away. Raises NotFound."""
        self._knowledge.edit_chunk(self._owner, chunk_id, text)

    def original(self, name: str) -> tuple[str, int, Iterator[bytes]]:
        """A file's name, how many bytes it has, and these, in pieces. Raises NotFound."""
        document = self._document(name)
        data = self._knowledge.original(self._owner, document.id)
        return document.filename, document.size, data

    # each of these goes on with the next file when one fails

    def add(self, uploads: Iterable[Upload], cut: bases.Cut, *, replace: bool) -> Failures:
        """Take files in, and wait until they are read."""
        there = set() if replace else set(self.names())
        named = {one.name: one for one in uploads}
        began: list[Document] = []

        def one(name: str) -> None:
            if name in there:
                raise Taken("there is a file of this name already")
            began.append(self._add(named[name], cut, replace))

        return _each(named, one) + self._read(began)

    def again(self, names: Iterable[str], cut: bases.Cut) -> Failures:
        """Read and split files anew from what was uploaded."""
        began: list[Document] = []

        def one(name: str) -> None:
            document = self._document(name)
            began.append(
                self._knowledge.read_again(self._owner, self.id, document.id, _splitting(cut))
            )

        return _each(names, one) + self._read(began)

    def write(self, pieces: Mapping[str, tuple[str, ...]]) -> Failures:
        """Files whose chunks are handed in."""
        began: list[Document] = []

        def one(name: str) -> None:
            if not name.lower().endswith(WRITTEN):
                raise Taken(f"chunks can be handed in for {' and '.join(WRITTEN)} files alone")
            texts = pieces[name]
            longest = max(map(len, texts), default=1)
            data = BytesIO("\n\n".join(texts).encode())
            began.append(self._add(Upload(name, data), bases.Cut(longest, 0), replace=True))

        return _each(pieces, one) + self._read(began)

    def remove(self, names: Iterable[str]) -> Failures:
        def one(name: str) -> None:
            self._knowledge.remove(self._owner, self.id, self._document(name).id)

        return _each(names, one)

    def hide(self, names: Iterable[str]) -> Failures:
        """The files stay, and are found no more until they are read anew."""

        def one(name: str) -> None:
            for chunk in self.chunks(name):
                self.edit(chunk.id, "")

        return _each(names, one)

    def rebuild(self, cut: bases.Cut) -> Documents:
        """Steps of reading and splitting all files anew."""
        names = self.names()
        job_id = self._knowledge.rebuild(self._owner, self.id, _splitting(cut)).id
        told = 0
        for job in self._knowledge.watch(self._owner, job_id):
            while told < min(job.done, len(names)):
                yield bases.progress(len(names), told, names[told])
                told += 1
        for document in self._documents():
            if document.status == "failed":
                yield bases.stumble(document.filename, document.error)

    def _add(self, upload: Upload, cut: bases.Cut, replace: bool) -> Document:
        return self._knowledge.add(
            self._owner, self.id, upload.name, upload.data, _splitting(cut), replace=replace
        )

    def _documents(self) -> tuple[Document, ...]:
        return self._knowledge.documents(self._owner, self.id)

    def _document(self, name: str) -> Document:
        """By name or id. Raises NotFound."""
        for one in self._documents():
            if name in (one.filename, one.id):
                return one
        raise NotFound(f"there is no file {name[:200]} in this knowledge base")

    def _read(self, began: list[Document]) -> Failures:
        """Wait for documents; those that could not be read, with the reason."""
        end = time.monotonic() + PATIENCE
        failed = []
        for document in began:
            while document.status not in OVER and time.monotonic() < end:
                time.sleep(LOOK)
                document = self._knowledge.document(self._owner, self.id, document.id)
            if document.status not in OVER:
                failed.append((document.filename, "it is still being read"))
            elif document.status != "ready":
                failed.append((document.filename, document.error or "it could not be read"))
        return failed


def _splitting(cut: bases.Cut) -> Splitting:
    return Splitting(cut.size, cut.overlap)


def _each(names: Iterable[str], act: Callable[[str], None]) -> Failures:
    """Do it for each; what went wrong with which."""
    failed = []
    for name in names:
        try:
            act(name)
        except GatewayError as error:
            failed.append((name, error.message))
    return failed
