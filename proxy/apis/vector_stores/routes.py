"""Routes of OpenAI's vector stores API: create, fill, search and delete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from flask import request

from ...errors import Unsupported
from ...web import permissions
from ...web.observability import Record
from ...web.routes import Api
from ...web.services import Services
from ...web.spine import View, sent_json, v1_route
from ..fields import choice, page_of
from . import request as dialect

if TYPE_CHECKING:
    from ...knowledge.stores import VectorStoreFile, VectorStores
    from ...store.file_store import Batch, StoredVectorStore
    from ...store.records import Base

blueprint = Api(
    "vector_stores",
    __name__,
    group="knowledge",
    tag="OpenAI: vector stores",
    schemas=dialect.SCHEMAS,
)


def _route(method: str, path: str, **about: Any) -> Callable[[View], View]:
    return v1_route(blueprint, method, f"/vector_stores{path}", **about)


@_route("POST", "", body="VectorStoreRequest")
def create(services: Services, record: Record) -> Any:
    """A new vector store."""
    new, files = dialect.parse_create(sent_json(empty={}))
    stores, owner = opened(services), record.key
    for file in files:
        stores.file(owner, file["file_id"])  # raises before anything is created
    base, stored = stores.create(owner, **new)
    for file in files:
        stores.attach(owner, base.id, **file)
    return _store(stores, owner, base, stored)


@_route("GET", "")
def listed(services: Services, record: Record) -> Any:
    """The vector stores of the key."""
    stores, owner = opened(services), record.key
    return page_of(
        request.args,
        stores.stores(owner),
        lambda store: store[0].id,
        lambda store: _store(stores, owner, *store),
    )


@_route("GET", "/<key>")
def read(services: Services, record: Record, key: str) -> Any:
    """One vector store."""
    stores, owner = opened(services), record.key
    return _store(stores, owner, *stores.store(owner, key))


@_route("POST", "/<key>", body="VectorStoreChange")
def change(services: Services, record: Record, key: str) -> Any:
    """Change a vector store."""
    change = dialect.parse_update(sent_json(empty={}))
    stores, owner = opened(services), record.key
    return _store(stores, owner, *stores.change(owner, key, **change))


@_route("DELETE", "/<key>")
def delete(services: Services, record: Record, key: str) -> Any:
    """Delete a vector store."""
    return _deleted(opened(services).delete(record.key, key), "vector_store")


@_route("POST", "/<key>/search", body="VectorStoreSearch")
def search(services: Services, record: Record, key: str) -> Any:
    """Passages that fit a query."""
    search = dialect.parse_search(sent_json(empty={}))
    hits = opened(services).search(record.key, [key], **search)
    results = [
        {
            "file_id": member.file_id if member else hit.document_id,
            "filename": hit.filename,
            "score": hit.score,
            "attributes": dict(member.attributes) if member else {},
            "content": [{"type": "text", "text": hit.text}],
            "place": hit.place,  # page 3, a heading: our own field
        }
        for hit, member in hits
    ]
    return {"search_query": search["queries"], **_page("search_results", results)}


@_route("POST", "/<key>/files", body="VectorStoreFile")
def attach(services: Services, record: Record, key: str) -> Any:
    """Add an uploaded file."""
    file = dialect.parse_attach(sent_json(empty={}))
    return _file(key, opened(services).attach(record.key, key, **file))


@_route("GET", "/<key>/files")
def files(services: Services, record: Record, key: str) -> Any:
    """The files of a vector store."""
    return _files(services, record, key)


@_route("GET", "/<key>/files/<file>")
def file(services: Services, record: Record, key: str, file: str) -> Any:
    """A file of a vector store."""
    return _file(key, opened(services).member(record.key, key, file))


@_route("POST", "/<key>/files/<file>", body="VectorStoreFileAttributes")
def describe(services: Services, record: Record, key: str, file: str) -> Any:
    """Change the attributes of a file."""
    attributes = dialect.attributes(sent_json(empty={}))
    return _file(key, opened(services).describe(record.key, key, file, attributes))


@_route("DELETE", "/<key>/files/<file>")
def detach(services: Services, record: Record, key: str, file: str) -> Any:
    """Remove a file from a vector store."""
    opened(services).detach(record.key, key, file)
    return _deleted(file, "vector_store.file")


@_route("GET", "/<key>/files/<file>/content")
def content(services: Services, record: Record, key: str, file: str) -> Any:
    """The text of a file."""
    texts = opened(services).texts(record.key, key, file)
    return _page("file_content", [{"type": "text", "text": text} for text in texts])


@_route("POST", "/<key>/file_batches", body="VectorStoreFileBatch")
def begin(services: Services, record: Record, key: str) -> Any:
    """Add several files."""
    files = dialect.parse_batch(sent_json(empty={}))
    stores, owner = opened(services), record.key
    batch = stores.begin(owner, key, [file["file_id"] for file in files])
    for file in files:
        stores.attach(owner, key, batch_id=batch.batch_id, **file)
    return _batch(stores, owner, batch)


@_route("GET", "/<key>/file_batches/<batch>")
def batch(services: Services, record: Record, key: str, batch: str) -> Any:
    """How far a batch of files is."""
    stores, owner = opened(services), record.key
    return _batch(stores, owner, stores.batch(owner, key, batch))


@_route("POST", "/<key>/file_batches/<batch>/cancel")
def cancel(services: Services, record: Record, key: str, batch: str) -> Any:
    """Cancel a batch of files."""
    stores, owner = opened(services), record.key
    return _batch(stores, owner, stores.cancel(owner, key, batch))


@_route("GET", "/<key>/file_batches/<batch>/files")
def batch_files(services: Services, record: Record, key: str, batch: str) -> Any:
    """The files of a batch."""
    opened(services).batch(record.key, key, batch)
    return _files(services, record, key, batch)


def opened(services: Services) -> VectorStores:
    """The vector stores that the caller of this request may use. Raises Unsupported."""
    stores = permissions.vector_stores(services, request.environ)
    if stores is None:
        raise Unsupported("files need the extra `knowledge`, which is not installed")
    return stores


def _files(services: Services, record: Record, key: str, batch_id: str = "") -> Any:
    arguments = {"filter": request.args.get("filter") or None}
    status = choice(arguments, "filter", dialect.STATUSES, "all")
    members = opened(services).members(record.key, key, batch_id)
    return page_of(
        request.args,
        [member for member in members if status in ("all", member.status)],
        lambda member: member.file_id,
        lambda member: _file(key, member),
    )


def _store(
    stores: VectorStores, owner: str, base: Base, stored: StoredVectorStore
) -> dict[str, Any]:
    members, lasts = stores.members(owner, base.id), stored.lasts
    counts = _counts(members)
    status = "in_progress" if counts["in_progress"] else "completed"
    return {
        "id": base.id,
        "object": "vector_store",
        "created_at": int(base.created),
        "name": base.name,
        "description": base.info or None,
        "usage_bytes": sum(member.size for member in members if member.status == "completed"),
        "file_counts": counts,
        "status": "expired" if stores.has_expired(stored) else status,
        "expires_after": {"anchor": "last_active_at", "days": lasts} if lasts else None,
        "expires_at": int(stored.active) + lasts * 86400 if lasts else None,
        "last_active_at": int(stored.active),
        "metadata": dict(stored.metadata),
    }


def _file(store_id: str, member: VectorStoreFile) -> dict[str, Any]:
    error = {"code": "invalid_file", "message": member.error}
    return {
        "id": member.file_id,
        "object": "vector_store.file",
        "created_at": int(member.created),
        "vector_store_id": store_id,
        "status": member.status,
        "last_error": error if member.status == "failed" else None,
        "usage_bytes": member.size,
        "attributes": dict(member.attributes),
        "chunking_strategy": {
            "type": "static",
            "static": {
                "max_chunk_size_tokens": member.tokens or dialect.TOKENS,
                "chunk_overlap_tokens": member.overlap if member.tokens else dialect.OVERLAP,
            },
        },
    }


def _batch(stores: VectorStores, owner: str, batch: Batch) -> dict[str, Any]:
    counts = _counts(stores.members(owner, batch.base_id, batch.batch_id))
    if batch.cancelled:
        status = "cancelled"
    elif counts["in_progress"]:
        status = "in_progress"
    else:
        status = "failed" if 0 < counts["failed"] == counts["total"] else "completed"
    return {
        "id": batch.batch_id,
        "object": "vector_store.files_batch",
        "created_at": int(batch.created),
        "vector_store_id": batch.base_id,
        "status": status,
        "file_counts": counts,
    }


def _counts(members: Sequence[VectorStoreFile]) -> dict[str, int]:
    statuses = [member.status for member in members]
    counts = {status: statuses.count(status) for status in dialect.STATUSES}
    return {**counts, "total": len(statuses)}


def _page(kind: str, data: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A list that is always on one page."""
    return {
        "object": f"vector_store.{kind}.page",
        "data": data,
        "has_more": False,
        "next_page": None,
    }


def _deleted(key: str, kind: str) -> dict[str, Any]:
    return {"id": key, "object": f"{kind}.deleted", "deleted": True}
