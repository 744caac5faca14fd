"""OpenAI's vector stores: made, filled, searched, deleted."""

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
from .exchange import plain
from .observe import Record
from .services import Services

if TYPE_CHECKING:
    from ..knowledge.members import Member
    from ..knowledge.stores import VectorStores
    from ..knowledge.values import Base
    from ..store.files import Batch, Kept

blueprint = Blueprint("vector_stores", __name__)

PREFIX = "/vector_stores"
View = TypeVar("View", bound=Callable[..., Response])


def _routes(path: str, method: str) -> Callable[[View], View]:
    """The route with and without /v1."""

    def register(view: View) -> View:
        for prefix in ("/v1", ""):
            blueprint.add_url_rule(f"{prefix}{PREFIX}{path}", view_func=view, methods=[method])
        return view

    return register


@_routes("", "POST")
def create() -> Response:
    def view(here: Services, record: Record) -> Any:
        asked = dialect.parse_create(_body(here))
        stores, owner = opened(here), record.key
        for one in asked.files:
            stores.file(owner, one.file_id)  # all are there, or nothing is made
        base, kept = stores.create(
            owner, asked.name, asked.description, asked.metadata, asked.lasts
        )
        _attach(stores, owner, base.id, asked.files)
        return _store(stores, owner, base, kept)

    return plain(view)


@_routes("", "GET")
def listed() -> Response:
    def view(here: Services, record: Record) -> Any:
        stores, owner = opened(here), record.key
        return listing.reply(
            listing.parse(request.args),
            stores.stores(owner),
            lambda one: one[0].id,
            lambda one: _store(stores, owner, *one),
        )

    return plain(view)


@_routes("/<key>", "GET")
def read(key: str) -> Response:
    def view(here: Services, record: Record) -> Any:
        stores, owner = opened(here), record.key
        return _store(stores, owner, *stores.store(owner, key))

    return plain(view)


@_routes("/<key>", "POST")
def change(key: str) -> Response:
    def view(here: Services, record: Record) -> Any:
        asked = dialect.parse_update(_body(here))
        stores, owner = opened(here), record.key
        changed = stores.change(owner, key, asked.name, asked.metadata, asked.lasts)
        return _store(stores, owner, *changed)

    return plain(view)


@_routes("/<key>", "DELETE")
def delete(key: str) -> Response:
    def view(here: Services, record: Record) -> Any:
        return objects.deleted(opened(here).delete(record.key, key), "vector_store")

    return plain(view)


@_routes("/<key>/search", "POST")
def search(key: str) -> Response:
    def view(here: Services, record: Record) -> Any:
        asked = dialect.parse_search(_body(here))
        stores, owner = opened(here), record.key
        found = stores.search(
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
                objects.Result(
                    member.file_id if member else hit.document_id,
                    hit.filename,
                    member.attributes if member else {},
                    hit.score,
                    hit.text,
                    hit.place,
                )
                for hit, member in found
            ],
        )

    return plain(view)


# -- files -----------------------------------------------------------------------------------------


@_routes("/<key>/files", "POST")
def attach(key: str) -> Response:
    def view(here: Services, record: Record) -> Any:
        asked = dialect.parse_attach(_body(here))
        (member,) = _attach(opened(here), record.key, key, [asked])
        return _file(key, member)

    return plain(view)


@_routes("/<key>/files", "GET")
def files(key: str) -> Response:
    return plain(lambda here, record: _files(here, record, key))


@_routes("/<key>/files/<file>", "GET")
def file(key: str, file: str) -> Response:
    return plain(lambda here, record: _file(key, opened(here).member(record.key, key, file)))


@_routes("/<key>/files/<file>", "POST")
def describe(key: str, file: str) -> Response:
    def view(here: Services, record: Record) -> Any:
        asked = dialect.attributes(_body(here))
        return _file(key, opened(here).describe(record.key, key, file, asked))

    return plain(view)


@_routes("/<key>/files/<file>", "DELETE")
def detach(key: str, file: str) -> Response:
    def view(here: Services, record: Record) -> Any:
        opened(here).detach(record.key, key, file)
        return objects.deleted(file, "vector_store.file")

    return plain(view)


@_routes("/<key>/files/<file>/content", "GET")
def content(key: str, file: str) -> Response:
    return plain(lambda here, record: objects.content(opened(here).texts(record.key, key, file)))


# -- batches ---------------------------------------------------------------------------------------


@_routes("/<key>/file_batches", "POST")
def begin(key: str) -> Response:
    def view(here: Services, record: Record) -> Any:
        asked = dialect.parse_batch(_body(here))
        stores, owner = opened(here), record.key
        batch = stores.begin(owner, key, [one.file_id for one in asked])
        _attach(stores, owner, key, asked, batch.batch_id)
        return _batch(stores, owner, batch)

    return plain(view)


@_routes("/<key>/file_batches/<batch>", "GET")
def batch(key: str, batch: str) -> Response:
    def view(here: Services, record: Record) -> Any:
        stores, owner = opened(here), record.key
        return _batch(stores, owner, stores.batch(owner, key, batch))

    return plain(view)


@_routes("/<key>/file_batches/<batch>/cancel", "POST")
def cancel(key: str, batch: str) -> Response:
    def view(here: Services, record: Record) -> Any:
        stores, owner = opened(here), record.key
        return _batch(stores, owner, stores.cancel(owner, key, batch))

    return plain(view)


@_routes("/<key>/file_batches/<batch>/files", "GET")
def batch_files(key: str, batch: str) -> Response:
    def view(here: Services, record: Record) -> Any:
        opened(here).batch(record.key, key, batch)
        return _files(here, record, key, batch)

    return plain(view)


# -- parts of these --------------------------------------------------------------------------------


def opened(here: Services) -> VectorStores:
    """Raises Unsupported without the packages that knowledge bases need."""
    if here.vector_stores is None:
        raise Unsupported("files and vector stores need the extra: slotproxy[knowledge]")
    return here.vector_stores


def _body(here: Services) -> dict[str, Any]:
    """An empty one is an object without fields: so the client creates a store without any."""
    value = body.read_value(request.environ, here.settings.max_body, empty={})
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object")
    return value


def _attach(
    stores: VectorStores,
    owner: str,
    base_id: str,
    asked: Iterable[Attachment],
    batch_id: str = "",
) -> list[Member]:
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


def _files(here: Services, record: Record, key: str, batch_id: str = "") -> Any:
    wanted = dialect.status_filter(request.args)
    found = opened(here).members(record.key, key, batch_id)
    return listing.reply(
        listing.parse(request.args),
        [one for one in found if not wanted or one.status == wanted],
        lambda one: one.file_id,
        lambda one: _file(key, one),
    )


def _store(stores: VectorStores, owner: str, base: Base, kept: Kept) -> dict[str, Any]:
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


def _file(store_id: str, member: Member) -> dict[str, Any]:
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
