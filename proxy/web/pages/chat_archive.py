"""Export and import of the chat page's conversations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec
from flask import Response, make_response, request
from msgspec import structs

from ...apis import chat_exports
from ...store.records import PINNED, AdoptedMessage
from .. import body
from ..spine import json_response, passthrough
from . import api, guard, images

if TYPE_CHECKING:
    # It imports SQLAlchemy, an extra.
    from ...store.conversations import ConversationStore, StoredConversation

API = "/pages/api/chat/conversations"

blueprint = guard.guarded("chat_archive")


@blueprint.get(f"{API}/<conversation>/export")
def export(conversation: str) -> Response:
    """Download the conversation as `?as=md` (only the last used branch) or `json`."""
    store, owner = api.conversations(), api.owner()
    known = store.get(owner, conversation)
    if request.args.get("as") == "json":
        return _download(make_response(_whole(store, owner, known)), known.title, "json")
    all_ = store.messages(owner, conversation)
    branch = store.path(owner, all_[-1].id) if all_ else ()
    parts = [f"# {known.title}", *(f"## {one.role}\n\n{images.markdown(one)}" for one in branch)]
    data = "\n\n".join(parts).encode() + b"\n"
    return _download(make_response(data), known.title, "md")


@blueprint.get(f"{API}/export")
def export_all() -> Response:
    """Download all conversations as a JSON list, which `import_` takes one by one."""
    store, owner = api.conversations(), api.owner()
    stream = passthrough(_all(store, owner), body.JSON, [])
    return _download(stream, "slotproxy conversations", "json")


@blueprint.post(f"{API}/import")
def import_() -> Response:
    """Store a conversation of an export of these pages, Open WebUI or ChatGPT."""
    found = chat_exports.read(api.json_body())
    if not found.messages:
        return api.done()
    messages = [AdoptedMessage(**structs.asdict(one)) for one in found.messages]
    settings = {PINNED: True} if found.pinned else {}
    made = api.conversations().create(
        api.owner(),
        found.title,
        settings,
        created=found.created,
        changed=found.changed,
        messages=messages,
    )
    return json_response(made, 201)


def _whole(store: ConversationStore, owner: str, known: StoredConversation) -> bytes:
    found = store.messages(owner, known.id)
    return msgspec.json.encode({**msgspec.to_builtins(known), "messages": found})


def _all(store: ConversationStore, owner: str) -> Iterator[bytes]:
    """Yield one conversation at a time: together they may be large."""
    before = b"["
    for known in store.recent(owner, limit=None):
        yield before + _whole(store, owner, known)
        before = b",\n"
    yield b"]" if before != b"[" else b"[]"


def _download(response: Response, title: str, ending: str) -> Response:
    name = re.sub(r"[^\w\- ]", "", title).strip()[:60] or "conversation"
    response.mimetype = "application/json" if ending == "json" else "text/markdown"
    response.headers["Content-Disposition"] = (
        f"attachment; filename*=UTF-8''{quote(name, safe='')}.{ending}"
    )
    return response
