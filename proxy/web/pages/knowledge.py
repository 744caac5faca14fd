"""The knowledge page and the routes its script calls, which only convert."""

from __future__ import annotations

from flask import Response, make_response, render_template, request

from ...apis import fields
from .. import body
from ..services import current_services
from ..spine import json_response, sent_json
from . import api, guard

blueprint = guard.guarded("panel_knowledge")

API = "/pages/api/knowledge"
MOST_HITS = 50


@blueprint.get("/knowledge")
def page() -> str:
    services = current_services()
    missing, most = services.knowledge is None, services.settings.max_document
    return render_template("knowledge.html", missing=missing, most=most)


# -- bases


@blueprint.get(API)
def bases() -> Response:
    bases = api.knowledge().bases(api.owner())
    return json_response([base for base in bases if not base.temporary])


@blueprint.post(API)
def create() -> Response:
    body = sent_json()
    name = fields.filled(body, "name").strip()
    model = fields.text(body, "embedding_model").strip() or None
    made = api.knowledge().create(api.owner(), name, fields.text(body, "info"), model)
    return json_response(made, 201)


@blueprint.delete(f"{API}/<base>")
def delete(base: str) -> Response:
    api.knowledge().delete(api.owner(), base)
    return api.done()


@blueprint.post(f"{API}/<base>/rebuild")
def rebuild(base: str) -> Response:
    return json_response(api.knowledge().rebuild(api.owner(), base), 202)


@blueprint.post(f"{API}/<base>/search")
def search(base: str) -> Response:
    """Search a base: `{"query", "top_k", "score_threshold"}` gives hits, the best first."""
    body = sent_json()
    query = fields.filled(body, "query").strip()
    top_k = fields.integer(body, "top_k", 1, MOST_HITS) or 3
    least = api.share(body, "score_threshold")
    return json_response(api.knowledge().search(api.owner(), [base], query, top_k, least))


# -- documents


@blueprint.get(f"{API}/<base>/documents")
def documents(base: str) -> Response:
    return json_response(api.knowledge().documents(api.owner(), base))


@blueprint.post(f"{API}/<base>/documents")
def add(base: str) -> Response:
    """Add a document: the body is its content, `?name=` its name."""
    name = fields.filled(request.args, "name")
    knowledge = api.knowledge()  # checks the key before megabytes are read
    replace = request.args.get("replace") == "1"
    with body.spooled(request.environ, current_services().settings.max_document) as data:
        return json_response(knowledge.add(api.owner(), base, name, data, replace=replace), 201)


@blueprint.delete(f"{API}/<base>/documents/<document>")
def remove(base: str, document: str) -> Response:
    api.knowledge().remove(api.owner(), base, document)
    return api.done()


@blueprint.get(f"{API}/<base>/documents/<document>/original")
def original(base: str, document: str) -> Response:
    """Return the original file, always as a download: it must never run as a page of this site."""
    knowledge = api.knowledge()
    stored = knowledge.document(api.owner(), base, document)
    response = make_response(knowledge.original(api.owner(), document))
    response.content_length = stored.size
    return api.download(response, stored.filename, "application/octet-stream")


@blueprint.get(f"{API}/<base>/documents/<document>/chunks")
def chunks(base: str, document: str) -> Response:
    return json_response(api.knowledge().chunks(api.owner(), document))


@blueprint.put(f"{API}/chunks/<chunk>")
def edit(chunk: str) -> Response:
    api.knowledge().edit_chunk(api.owner(), chunk, fields.filled(sent_json(), "text"))
    return api.done()


# -- jobs


@blueprint.get(f"{API}/jobs/<job>")
def job(job: str) -> Response:
    return json_response(api.knowledge().job(api.owner(), job))
