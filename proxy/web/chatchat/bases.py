"""Knowledge bases: made, listed, described, searched, rebuilt, deleted."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from ...dialects.chatchat import asked, bases, reply
from ..observe import Record
from ..services import Services
from .library import Library
from .spoken import Call, Speech, speak
from .view import asked as body
from .view import asked_value, plain

blueprint = Blueprint("bases", __name__, url_prefix="/knowledge_base")


@blueprint.get("/list_knowledge_bases")
def listed() -> Response:
    def view(here: Services, record: Record) -> Any:
        return reply.ok(Library(here, record.key).names())

    return plain(view, reply.error_of_list)


@blueprint.post("/create_knowledge_base")
def create() -> Response:
    def view(here: Services, record: Record) -> Any:
        wanted = bases.create(body(here))
        Library(here, record.key).create(wanted.name, wanted.model)
        return reply.ok(msg=f"the knowledge base {wanted.name} is there")

    return plain(view)


@blueprint.post("/delete_knowledge_base")
def delete() -> Response:
    def view(here: Services, record: Record) -> Any:
        name = bases.named(asked_value(here))
        Library(here, record.key).shelf(name).delete()
        return reply.ok(msg=f"the knowledge base {name} is deleted")

    return plain(view)


@blueprint.post("/update_info")
def update_info() -> Response:
    def view(here: Services, record: Record) -> Any:
        wanted = bases.info(body(here))
        Library(here, record.key).shelf(wanted.base).describe(wanted.info)
        return reply.ok(msg=f"the knowledge base {wanted.base} is described")

    return plain(view)


@blueprint.post("/search_docs")
def search() -> Response:
    """A bare list, without the wrapper: so it is in the original."""

    def view(here: Services, record: Record) -> Any:
        wanted = bases.search(body(here))
        shelf = Library(here, record.key).shelf(wanted.base)
        if wanted.query:
            score = asked.nearness(wanted.score_threshold)
            hits = shelf.search(wanted.query, wanted.top_k, score)
            return [
                bases.found(one.chunk_id, one.filename, one.place, one.text, one.distance)
                for one in hits
            ]
        chunks = shelf.chunks(wanted.file) if wanted.file else ()
        return [bases.found(one.id, wanted.file, one.place, one.text) for one in chunks]

    return plain(view)


@blueprint.post("/update_docs_by_id")
def edit() -> Response:
    def view(here: Services, record: Record) -> Any:
        wanted = bases.edit(body(here))
        shelf = Library(here, record.key).shelf(wanted.base)
        for key, text in wanted.texts.items():
            shelf.edit(key, text)
        return reply.ok(msg="the chunks are changed")

    return plain(view)


@blueprint.post("/recreate_vector_store")
def recreate() -> Response:
    return speak(_recreate)


def _recreate(call: Call) -> Speech:
    wanted = bases.recreate(call.body)
    library = Library(call.here, call.owner)
    shelf = library.shelf_or_new(wanted.base, wanted.model if wanted.create else None)
    return Speech(True, shelf.rebuild(wanted.cut))
