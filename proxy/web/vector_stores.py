"""Routes of OpenAI's vector stores API: create, fill, search and delete."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from flask import Blueprint, Response, request

from ..dialects import listing
from ..dialects import vector_store_objects as objects
from ..dialects import vector_stores as dialect
from ..dialects.vector_stores import Attachment, Chunking
from ..errors import BadRequest, Unsupported
from . import body
from .observability import Record
from .services import Services
from .spine import json_view

if TYPE_CHECKING:
    from ..knowledge.stores import VectorStores
    from ..knowledge.vector_store_files import VectorStoreFile
    from ..store.file_store import Batch, StoredVectorStore
    from ..store.records import Base

blueprint = Blueprint("vector_stores", __name__)

PREFIX = "/vector_stores"
View = TypeVar("View", bound=Callable[..., Response])


def _routes(path: str, method: str) -> Callable[[View], View]:
    """Register a route with and without /v1."""

    def register(view: View) -> View:
        for prefix in ("/v1", ""):
            blueprint.add_url_rule(f"{prefix}{PREFIX}{path}", view_func=view, methods=[method])
        return view

    return register


@_routes("", "POST")
def create() -> Response:
    def view(services: Services, record: Record) -> Any:
        asked = dialect.parse_create(_body(services))
        stores, owner = opened(services), record.key
        for one in asked.files:
            stores.file(owner, one.file_id)  # raises before anything is created
        base, kept = stores.create(
            owner, asked.name, asked.description, asked.metadata, asked.lasts
        )
        _attach(stores, owner, base.id, asked.files)
        return _store(stores, owner, base, kept)

    return json_view(view)


@_routes("", "GET")
def listed() -> Response:
    def view(services: Services, record: Record) -> Any:
        stores, owner = opened(services), record.key
        return listing.reply(
            listing.parse(request.args),
            stores.stores(owner),
            lambda one: one[0].id,
            lambda one: _store(stores, owner, *one),
        )

    return json_view(view)


@_routes("/<key>", "GET")
def read(key: str) -> Response:
    def view(services: Services, record: Record) -> Any:
        stores, owner = opened(services), record.key
        return _store(stores, owner, *stores.store(owner, key))

    return json_view(view)


@_routes("/<key>", "POST")
def change(key: str) -> Response:
    def view(services: Services, record: Record) -> Any:
        asked = dialect.parse_update(_body(services))
        stores, owner = opened(services), record.key
        changed = stores.change(owner, key, asked.name, asked.metadata, asked.lasts)
        return _store(stores, owner, *changed)

    return json_view(view)


@_routes("/<key>", "DELETE")
def delete(key: str) -> Response:
    def view(services: Services, record: Record) -> Any:
        return objects.deleted(opened(services).delete(record.key, key), "vector_store")

    return json_view(view)


@_routes("/<key>/search", "POST")
def search(key: str) -> Response:
    def view(services: Services, record: Record) -> Any:
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
                objects.SearchResult(
                    file_id=member.file_id if member else hit.document_id,
                    filename=hit.filename,
                    attributes=member.attributes if member else {},
                    score=hit.score,
                    text=hit.text,
                    place=hit.place,
                )
                for hit, member in hits
            ],
        )

    return json_view(view)


@_routes("/<key>/files", "POST")
def attach(key: str) -> Response:
    def view(services: Services, record: Record) -> Any:
        asked = dialect.parse_attach(_body(services))
        (member,) = _attach(opened(services), record.key, key, [asked])
        return _file(key, member)

    return json_view(view)


@_routes("/<key>/files", "GET")
def files(key: str) -> Response:
    return json_view(lambda services, record: _files(services, record, key))


@_routes("/<key>/files/<file>", "GET")
def file(key: str, file: str) -> Response:
    return json_view(
        lambda services, record: _file(key, opened(services).member(record.key, key, file))
    )


@_routes("/<key>/files/<file>", "POST")
def describe(key: str, file: str) -> Response:
    def view(services: Services, record: Record) -> Any:
        asked = dialect.attributes(_body(services))
        return _file(key, opened(services).describe(record.key, key, file, asked))

    return json_view(view)


@_routes("/<key>/files/<file>", "DELETE")
def detach(key: str, file: str) -> Response:
    def view(services: Services, record: Record) -> Any:
        opened(services).detach(record.key, key, file)
        return objects.deleted(file, "vector_store.file")

    return json_view(view)


@_routes("/<key>/files/<file>/content", "GET")
def content(key: str, file: str) -> Response:
    return json_view(
        lambda services, record: objects.content(opened(services).texts(record.key, key, file))
    )


@_routes("/<key>/file_batches", "POST")
def begin(key: str) -> Response:
    def view(services: Services, record: Record) -> Any:
        asked = dialect.parse_batch(_body(services))
        stores, owner = opened(services), record.key
        batch = stores.begin(owner, key, [one.file_id for one in asked])
        _attach(stores, owner, key, asked, batch.batch_id)
        return _batch(stores, owner, batch)

    return json_view(view)


@_routes("/<key>/file_batches/<batch>", "GET")
def batch(key: str, batch: str) -> Response:
    def view(services: Services, record: Record) -> Any:
        stores, owner = opened(services), record.key
        return _batch(stores, owner, stores.batch(owner, key, batch))

    return json_view(view)


@_routes("/<key>/file_batches/<batch>/cancel", "POST")
def cancel(key: str, batch: str) -> Response:
    def view(services: Services, record: Record) -> Any:
        stores, owner = opened(services), record.key
        return _batch(stores, owner, stores.cancel(owner, key, batch))

    return json_view(view)


@_routes("/<key>/file_batches/<batch>/files", "GET")
def batch_files(key: str, batch: str) -> Response:
    def view(services: Services, record: Record) -> Any:
        opened(services).batch(record.key, key, batch)
        return _files(services, record, key, batch)

    return json_view(view)


def opened(services: Services) -> VectorStores:
    """Return the vector stores. Raises Unsupported if the knowledge extra is not installed."""
    if services.vector_stores is None:
        raise Unsupported("files and vector stores are not available: install slotproxy[knowledge]")
    return services.vector_stores


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
    return listing.reply(
        listing.parse(request.args),
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
