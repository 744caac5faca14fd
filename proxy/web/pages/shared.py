"""Conversations that are shared by link: a copy of the branch that is open, without what the model
thought, its sources and system prompts, which may tell what is private."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Response, make_response, render_template

from ...apis import fields
from ...errors import Forbidden, InvalidParameter, NotFound
from ..services import current_services
from ..spine import json_response
from . import api, guard, images

if TYPE_CHECKING:
    from ...store.conversations import StoredMessage  # imports SQLAlchemy, of an extra

blueprint = guard.guarded("chat_shared", open_to_all=("page",))

API = "/pages/api/chat"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; connect-src 'self';"
    " img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def shown(message: StoredMessage) -> dict[str, Any]:
    """What others see of a message."""
    model = message.extra.get("model")
    return {
        "role": message.role,
        "content": message.content,
        "model": model if isinstance(model, str) else "",
        "images": images.kept(message),
    }


@blueprint.get(f"{API}/conversations/<conversation>/links")
def links(conversation: str) -> Response:
    return json_response(api.conversations().shared.links(api.owner(), conversation))


@blueprint.post(f"{API}/conversations/<conversation>/links")
def share(conversation: str) -> Response:
    """Share the branch that ends with the message `{"leaf"}`, as it is now."""
    body, store, owner = api.json_body(), api.conversations(), api.owner()
    if not current_services().keys.is_given(owner, "share"):
        raise Forbidden(
            "this API key may not share conversations: ask an administrator for the right `share`",
            code="share_forbidden",
        )
    stored = store.get(owner, conversation)
    branch = store.path(owner, fields.filled(body, "leaf"))
    if branch[0].conversation_id != stored.id:
        raise InvalidParameter("leaf", "is not a message of this conversation")
    messages = [shown(message) for message in branch if message.content]
    return json_response(store.shared.add(owner, stored.id, stored.title, messages), 201)


@blueprint.delete(f"{API}/links/<link>")
def revoke(link: str) -> Response:
    api.conversations().shared.remove(api.owner(), link)
    return api.done()


@blueprint.get("/shared/<link>", quiet=True)  # the log must not have its address
def page(link: str) -> Response:
    """A shared conversation, for everybody who knows its address."""
    services = current_services()
    shared = api.conversations().shared.read(link)
    if not services.keys.is_given(shared.owner, "share"):
        raise NotFound("there is no such page, or it is no longer shared")
    response = make_response(render_template("shared.html", shared=shared))
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["X-Robots-Tag"] = "noindex, nofollow"
    return response
