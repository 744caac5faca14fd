"""Routes for knowledge bases: create, list, describe, search, rebuild and delete."""

from __future__ import annotations

from typing import Any

from flask import Response

from ....errors import NotFound
from ....web.observability import Record
from ....web.routes import SSE
from ....web.services import Services
from .. import bases, params
from ..answer import error_of_list, ok
from .knowledge_bases import OwnerBases
from .streaming import DocumentStream, RequestContext, respond
from .view import api, json_body, json_value, route

blueprint = api("bases", __name__, url_prefix="/knowledge_base")


@route(blueprint, "GET", "/list_knowledge_bases", shape=error_of_list)
def listed(services: Services, record: Record) -> Any:
    """The knowledge bases."""
    return ok(OwnerBases(services, record.key).names())


@route(blueprint, "POST", "/create_knowledge_base", body="ChatchatNewBase")
def create(services: Services, record: Record) -> Any:
    """Create a knowledge base."""
    wanted = bases.create(json_body(services))
    OwnerBases(services, record.key).create(wanted.name, wanted.model)
    return ok(msg=f"knowledge base {wanted.name} created")


@route(blueprint, "POST", "/delete_knowledge_base", body="ChatchatBase")
def delete(services: Services, record: Record) -> Any:
    """Delete a knowledge base; the body may also be its name as a JSON string."""
    name = bases.named(json_value(services))
    OwnerBases(services, record.key).shelf(name).delete()
    return ok(msg=f"knowledge base {name} deleted")


@route(blueprint, "POST", "/update_info", body="ChatchatBaseInfo")
def update_info(services: Services, record: Record) -> Any:
    """Describe a knowledge base."""
    wanted = bases.info(json_body(services))
    OwnerBases(services, record.key).shelf(wanted.base).describe(wanted.info)
    return ok(msg=f"description of knowledge base {wanted.base} updated")


@route(blueprint, "POST", "/search_docs", body="ChatchatSearch")
def search(services: Services, record: Record) -> Any:
    """Passages that fit a query.

    Return a bare list without the wrapper, as the original does."""
    wanted = bases.search(json_body(services))
    try:
        shelf = OwnerBases(services, record.key).shelf(wanted.base)
    except NotFound:
        return []
    if wanted.query:
        score = params.nearness(wanted.score_threshold)
        hits = shelf.search(wanted.query, wanted.top_k, score)
        return [
            bases.document(one.chunk_id, one.filename, one.place, one.text, one.distance)
            for one in hits
        ]
    chunks = shelf.chunks(wanted.file) if wanted.file else ()
    return [bases.document(one.id, wanted.file, one.place, one.text) for one in chunks]


@route(blueprint, "POST", "/update_docs_by_id", body="ChatchatEdit")
def edit(services: Services, record: Record) -> Any:
    """Change chunks."""
    wanted = bases.edit(json_body(services))
    shelf = OwnerBases(services, record.key).shelf(wanted.base)
    for key, text in wanted.texts.items():
        shelf.edit(key, text)
    return ok(msg="chunks updated")


@blueprint.post("/recreate_vector_store", body="ChatchatRebuild", streams=SSE)
def recreate() -> Response:
    """Read all documents again."""
    return respond(_recreate)


def _recreate(call: RequestContext) -> DocumentStream:
    wanted = bases.recreate(call.body)
    library = OwnerBases(call.services, call.owner)
    shelf = library.shelf_or_new(wanted.base, wanted.model if wanted.create else None)
    return DocumentStream(True, shelf.rebuild(wanted.cut))
