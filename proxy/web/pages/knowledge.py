"""The knowledge page, and what its script calls: bases, documents, chunks, searches, jobs.

Thin: everything is the facade's, which knows the owner; here it gets a shape as JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
from flask import Blueprint, Response, make_response, render_template, request

from ...core.invalid import Invalid
from ...dialects import fields
from ...errors import NotFound
from .. import body
from ..reply import Reply
from ..services import services
from . import guard

if TYPE_CHECKING:
    from ...knowledge.service import Knowledge

blueprint = Blueprint("panel_knowledge", __name__)
guard.protect(blueprint)

API = "/pages/api/knowledge"
MOST_HITS = 50


@blueprint.get("/knowledge")
def page() -> Response:
    here = services()
    return make_response(
        render_template(
            "knowledge.html", missing=here.knowledge is None, most=here.settings.max_document
        )
    )


# -- bases


@blueprint.get(API)
def bases() -> Response:
    return _json([one for one in _knowledge().bases(_owner()) if not one.temporary])


@blueprint.post(API)
def create() -> Response:
    asked = _asked()
    name = fields.text(asked, "name").strip()
    if not name:
        raise Invalid("name", "must not be empty")
    model = fields.text(asked, "embedding_model").strip() or None
    return _json(_knowledge().create(_owner(), name, fields.text(asked, "info"), model), 201)


@blueprint.delete(f"{API}/<base>")
def delete(base: str) -> Response:
    _knowledge().delete(_owner(), base)
    return _done()


@blueprint.post(f"{API}/<base>/rebuild")
def rebuild(base: str) -> Response:
    return _json(_knowledge().rebuild(_owner(), base), 202)


@blueprint.post(f"{API}/<base>/search")
def search(base: str) -> Response:
    """What a question would find: `{"query", "top_k", "score_threshold"}` to a list of hits, the
    best first."""
    asked = _asked()
    query = fields.text(asked, "query").strip()
    if not query:
        raise Invalid("query", "must not be empty")
    top_k = fields.integer(asked, "top_k", 1, MOST_HITS) or 3
    least = asked.get("score_threshold")
    if least is not None and (type(least) not in (int, float) or not 0 <= least <= 1):
        raise Invalid("score_threshold", "must be a number from 0 to 1")
    return _json(_knowledge().search(_owner(), [base], query, top_k, least))


# -- documents


@blueprint.get(f"{API}/<base>/documents")
def documents(base: str) -> Response:
    return _json(_knowledge().documents(_owner(), base))


@blueprint.post(f"{API}/<base>/documents")
def add(base: str) -> Response:
    """The body is the file, `?name=` its name."""
    name = request.args.get("name", "")
    if not name:
        raise Invalid("name", "must not be empty")
    knowledge = _knowledge()  # before megabytes are read
    replace = request.args.get("replace") == "1"
    with body.spooled(request.environ, services().settings.max_document) as data:
        return _json(knowledge.add(_owner(), base, name, data, replace=replace), 201)


@blueprint.delete(f"{API}/<base>/documents/<document>")
def remove(base: str, document: str) -> Response:
    _knowledge().remove(_owner(), base, document)
    return _done()


@blueprint.get(f"{API}/<base>/documents/<document>/original")
def original(base: str, document: str) -> Response:
    """As a download, whatever it is: never shown as a page of ours."""
    knowledge = _knowledge()
    found = knowledge.document(_owner(), base, document)
    response = make_response(knowledge.original(_owner(), document))
    response.content_length = found.size
    response.mimetype = "application/octet-stream"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Disposition"] = (
        f"attachment; filename*=UTF-8''{quote(found.filename, safe='')}"
    )
    return response


@blueprint.get(f"{API}/<base>/documents/<document>/chunks")
def chunks(base: str, document: str) -> Response:
    return _json(_knowledge().chunks(_owner(), document))


@blueprint.put(f"{API}/chunks/<chunk>")
def edit(chunk: str) -> Response:
    text = fields.text(_asked(), "text")
    if not text.strip():
        raise Invalid("text", "must not be empty")
    _knowledge().edit_chunk(_owner(), chunk, text)
    return _done()


# -- jobs


@blueprint.get(f"{API}/jobs/<job>")
def job(job: str) -> Response:
    return _json(_knowledge().job(_owner(), job))


@blueprint.post(f"{API}/jobs/<job>/cancel")
def cancel(job: str) -> Response:
    return _json(_knowledge().cancel(_owner(), job))


def _knowledge() -> Knowledge:
    """Raises NotFound where the extra is not installed."""
    knowledge = services().knowledge
    if knowledge is None:
        raise NotFound("knowledge bases are not installed: pip install 'slotproxy[knowledge]'")
    return knowledge


def _owner() -> str:
    return services().keys.check(request.environ)


def _asked() -> dict[str, Any]:
    return body.read_json(request.environ, services().settings.max_body)


def _json(value: object, status: int = 200) -> Response:
    return Reply(msgspec.json.encode(value), "application/json", [], status)


def _done() -> Response:
    return make_response("", 204)
