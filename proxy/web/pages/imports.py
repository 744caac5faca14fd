"""Imports a conversation on the chat page, whose script brings exports of Open WebUI and ChatGPT
into the form of ours. It is untrusted: only texts of users and assistants are kept. The replies to
a message that is left out follow its parent.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, cast

import msgspec
from flask import Response
from msgspec import Meta, Struct

from ...errors import InvalidParameter
from ...store.records import FOLDER, PINNED, AdoptedMessage
from ..spine import json_response
from . import api, guard
from .chat import TITLE, folder_name

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


blueprint = guard.guarded("chat_imports")


@blueprint.post("/pages/api/chat/conversations/import")
def import_() -> Response:
    """Store a conversation, unless it has no messages."""
    owner, export = api.owner(), parse(api.json_body())
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
            said = AdoptedMessage(place, role, node.content, node.reasoning, node.created)
            messages.append(said)
            place = len(messages) - 1
        left += [(reply, place) for reply in reversed(replies.get(node.id, ()))]
    return messages
