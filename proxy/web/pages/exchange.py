"""Conversations that leave the chat page, and come to it: exports, imports, and shared copies.

An import's script brings exports of Open WebUI and ChatGPT into the form of ours. It is untrusted:
only texts of users and assistants are kept. The replies to a message that is left out follow its
parent. A shared copy is the branch that is open, without what the model thought, its sources and
system prompts, which may tell what is private.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec
from flask import Response, make_response, render_template, request
from msgspec import Meta, Struct

from ...apis import fields
from ...errors import Forbidden, InvalidParameter, NotFound
from ...store.records import FOLDER, PINNED, AdoptedMessage
from .. import body
from ..services import current_services
from ..spine import json_response, passthrough, sent_json
from . import api, guard, images
from .chat import API, LEAF, TITLE, folder_name

if TYPE_CHECKING:  # imports SQLAlchemy, of an extra
    from ...store.conversations import ConversationStore, StoredConversation, StoredMessage

blueprint = guard.guarded("chat_exchange", open_to_all=("shared",))

# -- exports


@blueprint.get(f"{API}/conversations/<conversation>/export")
def export(conversation: str) -> Response:
    """Download the conversation as `?as=md` (only the open branch) or `json`."""
    store, owner = api.conversations(), api.owner()
    chat = store.get(owner, conversation)
    if request.args.get("as") == "json":
        return _download(make_response(_whole(store, owner, chat)), chat.title, "json")
    messages = store.messages(owner, conversation)
    ids = [message.id for message in messages]
    leaf = chat.settings.get(LEAF)
    branch = store.path(owner, leaf if leaf in ids else ids[-1]) if ids else ()
    parts = [
        f"# {chat.title}",
        *(f"## {message.role}\n\n{images.markdown(message)}" for message in branch),
    ]
    data = "\n\n".join(parts).encode() + b"\n"
    return _download(make_response(data), chat.title, "md")


@blueprint.get(f"{API}/conversations/export")
def export_all() -> Response:
    """Download all conversations as a JSON list."""
    store, owner = api.conversations(), api.owner()
    stream = passthrough(_all(store, owner), body.JSON, [])
    return _download(stream, "slotproxy conversations", "json")


def _whole(store: ConversationStore, owner: str, chat: StoredConversation) -> bytes:
    messages = store.messages(owner, chat.id)
    return msgspec.json.encode({**msgspec.to_builtins(chat), "messages": messages})


def _all(store: ConversationStore, owner: str) -> Iterator[bytes]:
    """Yield one conversation at a time: together they may be large."""
    before = b"["
    for chat in store.recent(owner, limit=None):
        yield before + _whole(store, owner, chat)
        before = b",\n"
    yield b"]" if before != b"[" else b"[]"


def _download(response: Response, title: str, ending: str) -> Response:
    name = re.sub(r"[^\w\- ]", "", title).strip()[:60] or "conversation"
    kind = "application/json" if ending == "json" else "text/markdown"
    return api.download(response, f"{name}.{ending}", kind)


# -- imports

MOST_NODES = 4000  # messages of a conversation, with those that are left out
Time = Annotated[float, Meta(ge=0, lt=1e11)]  # seconds since 1970, 0 if unknown


class Node(Struct, frozen=True):
    """A message, and the id of the one that it follows."""

    id: str
    parent_id: str | None = None
    role: str = ""
    content: str = ""
    reasoning: str = ""
    created: Time = 0.0


class Export(Struct, frozen=True, kw_only=True):
    messages: Annotated[list[Node], Meta(max_length=MOST_NODES)]
    title: str = ""
    created: Time = 0.0
    changed: Time = 0.0
    settings: Mapping[str, Any] = {}


@blueprint.post(f"{API}/conversations/import")
def import_() -> Response:
    """Store a conversation, unless it has no messages."""
    owner, export = api.owner(), parse(sent_json())
    messages = in_order(export.messages)
    if not messages:
        return api.done()
    settings: dict[str, Any] = {PINNED: True} if export.settings.get(PINNED) is True else {}
    with contextlib.suppress(InvalidParameter):  # one folder too many: it is in none
        settings[FOLDER] = folder_name(owner, export.settings, FOLDER)
    made = api.conversations().create(
        owner,
        " ".join(export.title.split())[:TITLE],
        settings,
        created=export.created,
        changed=export.changed or export.created,
        messages=messages,
    )
    return json_response(made, 201)


def parse(body: Mapping[str, Any]) -> Export:
    """Raises InvalidParameter."""
    try:
        return msgspec.convert(body, Export)
    except msgspec.ValidationError as error:
        raise InvalidParameter(
            "conversation", f"is not an export from slotproxy, Open WebUI or ChatGPT: {error}"
        ) from None


def in_order(nodes: Sequence[Node]) -> Sequence[AdoptedMessage]:
    """The kept messages, parents first. One that is its own parent begins a branch; circles go."""
    by_id = {node.id: node for node in nodes}
    # The first ones are under None, which is no name: the walk meets no message twice.
    replies: dict[str | None, list[Node]] = {}
    for node in by_id.values():
        has_parent = node.parent_id in by_id and node.parent_id != node.id
        replies.setdefault(node.parent_id if has_parent else None, []).append(node)
    messages: list[AdoptedMessage] = []
    left: list[tuple[Node, int | None]] = [(node, None) for node in reversed(replies.get(None, ()))]
    while left:
        node, place = left.pop()
        if node.role in ("user", "assistant") and node.content.strip():
            role = cast(Any, node.role)
            message = AdoptedMessage(place, role, node.content, node.reasoning, node.created)
            messages.append(message)
            place = len(messages) - 1
        left += [(reply, place) for reply in reversed(replies.get(node.id, ()))]
    return messages


# -- links to shared copies

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
    body, store, owner = sent_json(), api.conversations(), api.owner()
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
def shared(link: str) -> Response:
    """A shared conversation, for everybody who knows its address."""
    services = current_services()
    copy = api.conversations().shared.read(link)
    if not services.keys.is_given(copy.owner, "share"):
        raise NotFound("there is no such page, or it is no longer shared")
    response = make_response(render_template("shared.html", shared=copy))
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["X-Robots-Tag"] = "noindex, nofollow"
    return response
