"""A caller's knowledge bases by Langchain-Chatchat's rules: bases and files have names, or ids.

A caller waits for its own files for a limited time, since its client searches right after an
upload.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from flask import Response, request

from ....errors import Forbidden, GatewayError, NotFound
from ....store.records import Document, Splitting
from ....web import permissions
from ....web.body import read_value
from ....web.form import MultipartForm, UploadedPart, read_form
from ....web.observability import Record
from ....web.routes import SSE
from ....web.services import Services
from ....web.spine import passthrough
from ...fields import entry
from ..bodies import BASE, BODIES, FILE
from .view import Documents, RequestContext, Taken, blueprint, error_of_list, ok, respond, route

if TYPE_CHECKING:  # it imports SQLAlchemy
    from ....knowledge.service import Knowledge

PATIENCE = 120.0  # seconds an upload waits until its files are read
LOOK = 0.1
SHORTEST = 20  # characters of a chunk that the client writes, as the store needs
OVER = ("ready", "failed", "cancelled")
WRITTEN = (".txt", ".md")  # kinds of files whose chunks the client may write
# Media types under which browsers may show an uploaded file: none of them can run scripts.
SHOWN = {"pdf": "application/pdf", "txt": "text/plain", "md": "text/plain", "csv": "text/plain"}

Failures = dict[str, str]  # reasons by name
Cut = tuple[int, int]


class BaseHandle(NamedTuple):
    """A base of an owner. If a file fails, methods for several go through the others."""

    knowledge: Knowledge
    owner: str
    id: str

    def documents(self) -> tuple[Document, ...]:
        return self.knowledge.documents(self.owner, self.id)

    def document(self, name: str) -> Document:
        """Return a document by name or id. Raises NotFound."""
        for document in self.documents():
            if name in (document.filename, document.id):
                return document
        raise NotFound(f"this knowledge base has no file {name[:200]}")

    def add(self, uploads: Iterable[UploadedPart], cut: Cut, *, replace: bool) -> Failures:
        """Add files and wait until they are read."""
        existing = set() if replace else {document.filename for document in self.documents()}
        data = {upload.name: upload.data for upload in uploads}

        def add(name: str) -> Document:
            if name in existing:
                raise Taken("a file with this name already exists")
            return self._add(name, data[name], Splitting(*cut), replace)

        return self._each_read(data, add)

    def read_again(self, names: Iterable[str], cut: Cut) -> Failures:
        def begin(name: str) -> Document:
            document = self.document(name)
            return self.knowledge.read_again(self.owner, self.id, document.id, Splitting(*cut))

        return self._each_read(names, begin)

    def write(self, pieces: Mapping[str, tuple[str, ...]]) -> Failures:
        """Add files whose chunks the client has written."""

        def write(name: str) -> Document:
            if not name.lower().endswith(WRITTEN):
                raise Taken(f"chunks may be supplied only for {' and '.join(WRITTEN)} files")
            longest = max(SHORTEST, max(map(len, pieces[name]), default=0))
            data = BytesIO("\n\n".join(pieces[name]).encode())
            return self._add(name, data, Splitting(longest, 0), replace=True)

        return self._each_read(pieces, write)

    def hide(self, names: Iterable[str]) -> Failures:
        """Keep the files, but exclude them from searches until they are read again."""

        def hide(name: str) -> None:
            for chunk in self.knowledge.chunks(self.owner, self.document(name).id):
                self.knowledge.edit_chunk(self.owner, chunk.id, "")

        return _each(names, hide)

    def rebuild(self, cut: Cut) -> Documents:
        """Read and split all files again, and yield a document for each step."""
        names = [document.filename for document in self.documents()]
        job_id = self.knowledge.rebuild(self.owner, self.id, Splitting(*cut)).id
        reported = 0
        for job in self.knowledge.watch(self.owner, job_id):
            for name in names[reported : job.done]:
                step = {"total": len(names), "finished": reported, "doc": name}
                reported += 1
                yield {"code": 200, "msg": f"({reported} / {len(names)}): {name}", **step}
        for document in self.documents():
            if document.status == "failed":
                yield {"code": 500, "msg": f"{document.filename}: {document.error}"}

    def _add(self, name: str, data: IO[bytes], cut: Splitting, replace: bool) -> Document:
        return self.knowledge.add(self.owner, self.id, name, data, cut, replace=replace)

    def _each_read(self, names: Iterable[str], begin: Callable[[str], Document]) -> Failures:
        """Call `begin` for each name and wait until the documents are read."""
        began: list[Document] = []
        failed = _each(names, lambda name: began.append(begin(name)))
        end = time.monotonic() + PATIENCE
        for document in began:
            while document.status not in OVER and time.monotonic() < end:
                time.sleep(LOOK)
                document = self.knowledge.document(self.owner, self.id, document.id)
            if document.status not in OVER:
                failed[document.filename] = "the file is still being processed"
            elif document.status != "ready":
                failed[document.filename] = document.error or "the document could not be read"
        return failed


def _each(names: Iterable[str], act: Callable[[str], None]) -> Failures:
    """Call `act` for each name; return the failed names with their errors."""
    failed = {}
    for name in names:
        try:
            act(name)
        except GatewayError as error:
            failed[name] = error.message
    return failed


def _failures(failed: Failures, msg: str) -> dict[str, Any]:
    return ok({"failed_files": failed}, msg)


def _opened(services: Services) -> Knowledge:
    """The knowledge bases that the caller of this request may use. Raises Forbidden."""
    knowledge = permissions.knowledge(services, request.environ)
    if knowledge is None:
        raise Forbidden("knowledge bases need the extra `knowledge`, which is not installed")
    return knowledge


def _base(services: Services, record: Record, name: str) -> BaseHandle:
    """A base by name or id. Raises NotFound and Forbidden."""
    knowledge = _opened(services)
    return BaseHandle(knowledge, record.key, knowledge.base(record.key, name).id)


def _names(services: Services, record: Record) -> list[str]:
    bases = _opened(services).bases(record.key)
    return [base.name for base in bases if not base.temporary]


def _create(services: Services, record: Record, name: str, model: str) -> BaseHandle:
    """A new base. An unknown embedding model is the client's default. Raises Taken."""
    knowledge, owner = _opened(services), record.key
    if name in _names(services, record):
        raise Taken(f"the knowledge base {name} already exists")
    models = (services.local_embedder or services.embedder).registry.names()
    embedding_model = model if model in models else None
    base = knowledge.create(owner, name, embedding_model=embedding_model)
    return BaseHandle(knowledge, owner, base.id)


@route("GET", "/knowledge_base/list_knowledge_bases", shape=error_of_list)
def list_knowledge_bases(services: Services, record: Record) -> Any:
    """The knowledge bases."""
    return ok(_names(services, record))


@route("POST", "/knowledge_base/create_knowledge_base", body="ChatchatNewBase")
def create_knowledge_base(services: Services, record: Record, base: str, model: str) -> Any:
    """Create a knowledge base."""
    _create(services, record, base, model)
    return ok(msg=f"knowledge base {base} created")


@route("POST", "/knowledge_base/delete_knowledge_base", body="ChatchatBase", parses=False)
def delete_knowledge_base(services: Services, record: Record) -> Any:
    """Delete a knowledge base; the body may also be its name as a JSON string."""
    value = read_value(request.environ, services.settings.max_body, empty={})
    name = BASE.parse(
        {"knowledge_base_name": value} if type(value) is str else entry(value, "the body")
    )["base"]
    base = _base(services, record, name)
    base.knowledge.delete(record.key, base.id)
    return ok(msg=f"knowledge base {name} deleted")


@route("POST", "/knowledge_base/update_info", body="ChatchatBaseInfo")
def update_info(services: Services, record: Record, base: str, info: str) -> Any:
    """Describe a knowledge base."""
    handle = _base(services, record, base)
    handle.knowledge.describe(handle.owner, handle.id, info)
    return ok(msg=f"description of knowledge base {base} updated")


@route("POST", "/knowledge_base/search_docs", body="ChatchatSearch")
def search_docs(
    services: Services,
    record: Record,
    base: str,
    query: str,
    file: str,
    top_k: int,
    score_threshold: float | None,
) -> Any:
    """Passages that fit a query."""
    try:
        handle = _base(services, record, base)
    except NotFound:
        return []
    knowledge, owner, base_id = handle
    if query:
        hits = knowledge.search(
            owner, [base_id], query, top_k=top_k, score_threshold=score_threshold
        )
        return [
            _document(hit.chunk_id, hit.filename, hit.place, hit.text, hit.distance) for hit in hits
        ]
    chunks = knowledge.chunks(owner, handle.document(file).id) if file else ()
    # The distance is Chatchat's value for a listed chunk.
    return [_document(chunk.id, file, chunk.place, chunk.text, 3.0) for chunk in chunks]


def _document(key: str, name: str, place: str, content: str, distance: float) -> dict[str, Any]:
    return {
        "page_content": content,
        "metadata": {"source": name, "id": key, "place": place},
        "type": "Document",
        "id": key,
        "score": distance,
    }


@route("POST", "/knowledge_base/update_docs_by_id", body="ChatchatEdit")
def update_docs_by_id(services: Services, record: Record, base: str, texts: dict[str, str]) -> Any:
    """Change chunks."""
    handle = _base(services, record, base)
    for chunk_id, text in texts.items():
        handle.knowledge.edit_chunk(handle.owner, chunk_id, text)
    return ok(msg="chunks updated")


@blueprint.post("/knowledge_base/recreate_vector_store", body="ChatchatRebuild", streams=SSE)
def recreate_vector_store() -> Response:
    """Read all documents again."""
    return respond(_recreate)


def _recreate(call: RequestContext) -> tuple[bool, Documents]:
    values = BODIES["ChatchatRebuild"].parse(call.body)
    try:
        base = _base(call.services, call.record, values["base"])
    except NotFound:
        if not values["create"]:
            raise
        base = _create(call.services, call.record, values["base"], values["model"])
    return True, base.rebuild(values["cut"])


# Files of knowledge bases (upload, list, reload, download, delete), and files uploaded to a chat.


@route("GET", "/knowledge_base/list_files", shape=error_of_list)
def list_files(services: Services, record: Record) -> Any:
    """The documents of a base."""
    base = _base(services, record, BASE.parse(request.args)["base"])
    return ok([document.filename for document in base.documents()])


@route("POST", "/knowledge_base/upload_docs", body="ChatchatDocuments", parses=False)
def upload_docs(services: Services, record: Record) -> Any:
    """Upload documents."""
    with _form(services) as form:
        values = BODIES["ChatchatDocuments"].parse(form.fields)
        base, pieces = _base(services, record, values["base"]), values["pieces"]
        uploads = [upload for upload in form.files if upload.name not in pieces]
        failed = base.add(uploads, values["cut"], replace=values["override"])
    failed |= base.write(pieces)
    if not values["indexed"]:
        base.hide(upload.name for upload in form.files)
    return _failures(failed, "files uploaded")


@route("POST", "/knowledge_base/upload_temp_docs", body="ChatchatChatFiles", parses=False)
def upload_temp_docs(services: Services, record: Record) -> Any:
    """Upload documents for a chat about files."""
    with _form(services) as form:
        values = BODIES["ChatchatChatFiles"].parse(form.fields)
        knowledge, owner = _opened(services), record.key
        if values["base"]:
            base = knowledge.base(owner, values["base"])
        else:
            base = knowledge.create(owner, "", temporary=True)
        if not base.temporary:
            raise NotFound(f"no such temporary knowledge base: {values['base'][:100]!r}")
        handle = BaseHandle(knowledge, owner, base.id)
        failed = handle.add(form.files, values["cut"], replace=True)
    return ok({"id": base.id, "failed_files": [{name: why} for name, why in failed.items()]})


@route("POST", "/knowledge_base/delete_docs", body="ChatchatDelete")
def delete_docs(
    services: Services, record: Record, base: str, files: tuple[str, ...], content: bool
) -> Any:
    """Delete documents."""
    handle = _base(services, record, base)

    def remove(name: str) -> None:
        handle.knowledge.remove(handle.owner, handle.id, handle.document(name).id)

    return _failures(_each(files, remove) if content else handle.hide(files), "files deleted")


@route("POST", "/knowledge_base/update_docs", body="ChatchatUpdate")
def update_docs(
    services: Services,
    record: Record,
    base: str,
    files: tuple[str, ...],
    cut: Cut,
    pieces: Mapping[str, tuple[str, ...]],
) -> Any:
    """Read documents again."""
    handle = _base(services, record, base)
    failed = handle.read_again([name for name in files if name not in pieces], cut)
    return _failures(failed | handle.write(pieces), "files will be read again")


@route("GET", "/knowledge_base/download_doc", answer="application/octet-stream")
def download_doc(services: Services, record: Record) -> Response:
    """A document as it came."""
    values = FILE.parse(request.args)
    base = _base(services, record, values["base"])
    document = base.document(values["file"])
    data = base.knowledge.original(base.owner, document.id)
    kind = SHOWN.get(document.filename.rpartition(".")[2].lower(), "")
    shown = kind and request.args.get("preview", "").lower() in ("true", "1")
    name = quote(document.filename, safe="")
    headers = [
        ("Content-Length", str(document.size)),
        ("Content-Disposition", f"{'inline' if shown else 'attachment'}; filename*=UTF-8''{name}"),
        ("Content-Security-Policy", "sandbox"),
    ]
    return passthrough(data, kind if shown else "application/octet-stream", headers)


def _form(services: Services) -> MultipartForm:
    return read_form(request.environ, services.settings.max_document, services.settings.max_body)
