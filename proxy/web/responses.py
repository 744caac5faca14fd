"""OpenAI's Responses: created, streamed, in the background, kept, read, cancelled and deleted."""

from __future__ import annotations

from typing import Any, NoReturn

import msgspec
from flask import Blueprint, Response, request

from ..core.invalid import Invalid
from ..dialects import responses
from ..errors import BadRequest, NotFound
from ..store.responses import Stored
from . import background, body, disconnect
from .conversation import Conversation
from .direct import Environ, Sent, post
from .exchange import complete, plain
from .observe import Record
from .services import Services

blueprint = Blueprint("responses", __name__)

MOST_LISTED = 100


@post(blueprint, "/v1/responses", "/responses")
def create(here: Services, environ: Environ) -> Sent:
    conversation = Conversation(here, environ)
    return complete(
        here,
        environ,
        conversation,
        "resp_",
        early=conversation.in_background,
        begin=conversation.begin,
    )


@blueprint.post("/v1/responses/input_tokens")
@blueprint.post("/responses/input_tokens")
def input_tokens() -> Response:
    def view(here: Services, record: Record) -> Any:
        conversation = Conversation(here, request.environ)
        asked = conversation.parse(body.read_json(request.environ, here.settings.max_body))
        with disconnect.watched(request.environ) as cancel:
            count = here.gateway.count(conversation.fitted(asked, cancel), cancel)
        return {"object": "response.input_tokens", "input_tokens": count}

    return plain(view)


@blueprint.get("/v1/responses/<key>")
@blueprint.get("/responses/<key>")
def read(key: str) -> Response:
    def view(here: Services, record: Record) -> Any:
        if request.args.get("stream") == "true":
            raise Invalid("stream", "is over: a kept response is read whole")
        return msgspec.Raw(background.told(_kept(here, record, key)))

    return plain(view)


@blueprint.delete("/v1/responses/<key>")
@blueprint.delete("/responses/<key>")
def delete(key: str) -> Response:
    def view(here: Services, record: Record) -> Any:
        here.jobs.cancel(record.key, key)
        if not here.store.delete(record.key, key):
            _missing(key)
        return {"id": key, "object": "response", "deleted": True}

    return plain(view)


@blueprint.post("/v1/responses/<key>/cancel")
@blueprint.post("/responses/<key>/cancel")
def cancel(key: str) -> Response:
    def view(here: Services, record: Record) -> Any:
        kept = _kept(here, record, key)
        if not msgspec.json.decode(kept.response).get("background"):
            raise BadRequest("only a response made in the background can be cancelled")
        done = background.cancelled(kept)
        if done and here.store.change_open(record.key, key, msgspec.json.encode(done), over=True):
            here.jobs.cancel(record.key, key)
            return done
        return msgspec.Raw(background.told(_kept(here, record, key)))  # it was over

    return plain(view)


@blueprint.get("/v1/responses/<key>/input_items")
@blueprint.get("/responses/<key>/input_items")
def input_items(key: str) -> Response:
    def view(here: Services, record: Record) -> Any:
        limit = request.args.get("limit", "20")
        if not limit.isascii() or not limit.isdigit() or not 0 < int(limit) <= MOST_LISTED:
            raise Invalid("limit", f"must be from 1 to {MOST_LISTED}")
        found = responses.listed(msgspec.json.decode(_kept(here, record, key).items), key)
        if request.args.get("order", "desc") == "desc":
            found.reverse()
        after = request.args.get("after")
        if after:
            ids = [item["id"] for item in found]
            if after not in ids:
                raise Invalid("after", "is none of the items")
            found = found[ids.index(after) + 1 :]
        page = found[: int(limit)]
        return {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else "",
            "last_id": page[-1]["id"] if page else "",
            "has_more": len(found) > len(page),
        }

    return plain(view)


def _kept(here: Services, record: Record, key: str) -> Stored:
    kept = here.store.get(record.key, key)
    return kept if kept is not None else _missing(key)


def _missing(key: str) -> NoReturn:
    raise NotFound(f"there is no response {key[:100]!r}")
