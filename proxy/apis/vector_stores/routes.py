"""Routes of OpenAI's vector stores API: create, fill, search and delete."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from flask import request

from ...errors import BadRequest, Unsupported
from ...web import body, permissions
from ...web.observability import Record
from ...web.routes import Api
from ...web.services import Services
from ...web.spine import View, json_route
from ..fields import page_of
from . import objects
from . import request as dialect
from .request import Attachment, Chunking

if TYPE_CHECKING:
    from ...knowledge.stores import VectorStoreFile, VectorStores
    from ...store.file_store import Batch, StoredVectorStore
    from ...store.records import Base

blueprint = Api(
    "vector_stores",
    __name__,
    group="knowledge",
    tag="OpenAI",
    schemas=dialect.SCHEMAS,
)


def _route(method: str, path: str, **about: Any) -> Callable[[View], View]:
    paths = f"/v1/vector_stores{path}", f"/vector_stores{path}"
    return json_route(blueprint, method, *paths, **about)


@_route("POST", "", body="VectorStoreRequest")
def create(services: Services, record: Record) -> Any:
    """A new vector store."""
    asked = dialect.parse_create(_body(services))
    stores, owner = opened(services), record.key
    for one in asked.files:
        stores.file(owner, one.file_id)  # raises before anything is created
    base, kept = stores.create(owner, asked.name, asked.description, asked.metadata, asked.lasts)
    _attach(stores, owner, base.id, asked.files)
    return _store(stores, owner, base, kept)


@_route("GET", "")
def listed(services: Services, record: Record) -> Any:
    """The vector stores of the key."""
    stores, owner = opened(services), record.key
    return page_of(
        request.args,
        stores.stores(owner),
        lambda one: one[0].id,
        lambda one: _store(stores, owner, *one),
    )


@_route("GET", "/<key>")
def read(services: Services, record: Record, key: str) -> Any:
    """One vector store."""
    stores, owner = opened(services), record.key
    return _store(stores, owner, *stores.store(owner, key))


@_route("POST", "/<key>", body="VectorStoreChange")
def change(services: Services, record: Record, key: str) -> Any:
    """Change a vector store."""
    asked = dialect.parse_update(_body(services))
    stores, owner = opened(services), record.key
    changed = stores.change(owner, key, asked.name, asked.metadata, asked.lasts)
    return _store(stores, owner, *changed)


@_route("DELETE", "/<key>")
def delete(services: Services, record: Record, key: str) -> Any:
    """Delete a vector store."""
    return objects.deleted(opened(services).delete(record.key, key), "vector_store")


@_route("POST", "/<key>/search", body="VectorStoreSearch")
def search(services: Services, record: Record, key: str) -> Any:
    """Passages that fit a query."""
    asked = dialect.parse_search(_body(services))
    stores, owner = opened(services), record.key
    hits = stores.search(
        owner,
        [key],
        asked.queries,
        asked.most,
        asked.threshold,
        asked.filter,
        rank=asked.rank,
    )
    return objects.results(
        asked.queries,
        [
            objects.result(
                member.file_id if member else hit.document_id,
                hit.filename,
                member.attributes if member else {},
                hit.score,
                hit.text,
                hit.place,
            )
            for hit, member in hits
        ],
    )


@_route("POST", "/<key>/files", body="VectorStoreFile")
def attach(services: Services, record: Record, key: str) -> Any:
    """Add an uploaded file."""
    asked = dialect.parse_attach(_body(services))
    (member,) = _attach(opened(services), record.key, key, [asked])
    return _file(key, member)


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
    asked = dialect.attributes(_body(services))
    return _file(key, opened(services).describe(record.key, key, file, asked))


@_route("DELETE", "/<key>/files/<file>")
def detach(services: Services, record: Record, key: str, file: str) -> Any:
    """Remove a file from a vector store."""
    opened(services).detach(record.key, key, file)
    return objects.deleted(file, "vector_store.file")


@_route("GET", "/<key>/files/<file>/content")
def content(services: Services, record: Record, key: str, file: str) -> Any:
    """The text of a file."""
    return objects.content(opened(services).texts(record.key, key, file))


@_route("POST", "/<key>/file_batches", body="VectorStoreFileBatch")
def begin(services: Services, record: Record, key: str) -> Any:
    """Add several files."""
    asked = dialect.parse_batch(_body(services))
    stores, owner = opened(services), record.key
    batch = stores.begin(owner, key, [one.file_id for one in asked])
    _attach(stores, owner, key, asked, batch.batch_id)
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
    """Return the vector stores that the caller of this request may use. Raises Unsupported if the
    knowledge extra is not installed."""
    stores = permissions.vector_stores(services, request.environ)
    if stores is None:
        raise Unsupported("files and vector stores are not available: install slotproxy[knowledge]")
    return stores


def _body(services: Services) -> dict[str, Any]:
    """Return the body as an object; OpenAI's client sends an empty body for a store without
    options."""
    value = body.read_value(request.environ, services.settings.max_body, empty={})
    if not isinstance(value, dict):
        raise BadRequest("the request body must be a JSON object")
    return value


def _attach(
    stores: VectorStores,
    owner: str,
    base_id: str,
    asked: Iterable[Attachment],
    batch_id: str = "",
) -> list[VectorStoreFile]:
    return [
        stores.attach(
            owner,
            base_id,
            one.file_id,
            one.attributes,
            one.chunking.tokens,
            one.chunking.overlap,
            auto=one.chunking.auto,
            batch_id=batch_id,
        )
        for one in asked
    ]


def _files(services: Services, record: Record, key: str, batch_id: str = "") -> Any:
    wanted = dialect.status_filter(request.args)
    members = opened(services).members(record.key, key, batch_id)
    return page_of(
        request.args,
        [one for one in members if not wanted or one.status == wanted],
        lambda one: one.file_id,
        lambda one: _file(key, one),
    )


def _store(stores: VectorStores, owner: str, base: Base, kept: StoredVectorStore) -> dict[str, Any]:
    members = stores.members(owner, base.id)
    return objects.store(
        base.id,
        base.name,
        base.info,
        base.created,
        kept.active,
        kept.lasts,
        stores.has_expired(kept),
        sum(one.size for one in members if one.status == "completed"),
        kept.metadata,
        objects.counts([one.status for one in members]),
    )


def _file(store_id: str, member: VectorStoreFile) -> dict[str, Any]:
    chunking = Chunking(member.tokens, member.overlap) if member.tokens else Chunking()
    return objects.store_file(
        member.file_id,
        store_id,
        member.created,
        member.status,
        member.reason,
        member.size,
        member.attributes,
        chunking,
    )


def _batch(stores: VectorStores, owner: str, batch: Batch) -> dict[str, Any]:
    members = stores.members(owner, batch.base_id, batch.batch_id)
    counts = objects.counts([one.status for one in members])
    return objects.batch(batch.batch_id, batch.base_id, batch.created, counts, batch.cancelled)
