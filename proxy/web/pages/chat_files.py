"""Files dropped into a conversation: its own temporary knowledge base, kept as long as that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from flask import Blueprint, Response, make_response, request

from ...core.invalid import Invalid
from ...errors import NotFound
from .. import body
from ..reply import Reply
from ..services import services
from . import guard

if TYPE_CHECKING:
    from ...knowledge.service import Knowledge
    from ...store.conversations import Conversation, ConversationStore

blueprint = Blueprint("chat_files", __name__)
guard.protect(blueprint)

API = "/pages/api/chat/conversations/<conversation>/files"
SETTING = "files"  # of a conversation: the id of its base


def base_of(conversation: Conversation) -> str:
    """The id of its base. Raises Invalid where it has none."""
    base = conversation.settings.get(SETTING)
    if not base:
        raise Invalid("options.base", "this conversation has no files")
    return str(base)


@blueprint.get(API)
def files(conversation: str) -> Response:
    """What was dropped into it, and how far it is read; nothing where that was too long ago."""
    knowledge, store, owner = _parts()
    base = store.get(owner, conversation).settings.get(SETTING)
    try:
        found = knowledge.documents(owner, base) if base else ()
    except NotFound:
        found = ()
    return _json(found)


@blueprint.post(API)
def add(conversation: str) -> Response:
    """The body is the file, `?name=` its name; instead of one of the same name."""
    knowledge, store, owner = _parts()
    known = store.get(owner, conversation)
    name = request.args.get("name", "")
    base = known.settings.get(SETTING)
    with body.spooled(request.environ, services().settings.max_document) as data:
        try:
            if not base:
                raise NotFound("there is no file yet")
            document = knowledge.add(owner, str(base), name, data, replace=True)
        except NotFound:  # or its time is over
            base = knowledge.create(owner, "", temporary=True).id
            store.change(owner, known.id, settings={**known.settings, SETTING: base})
            document = knowledge.add(owner, base, name, data)
    return _json(document, 201)


@blueprint.delete(f"{API}/<document>")
def remove(conversation: str, document: str) -> Response:
    knowledge, store, owner = _parts()
    knowledge.remove(owner, base_of(store.get(owner, conversation)), document)
    return make_response("", 204)


def _parts() -> tuple[Knowledge, ConversationStore, str]:
    """Raises NotFound where the extra is not installed."""
    here = services()
    if here.knowledge is None or here.conversations is None:
        raise NotFound("knowledge bases are not installed: pip install 'slotproxy[knowledge]'")
    return here.knowledge, here.conversations, here.keys.check(request.environ)


def _json(value: object, status: int = 200) -> Response:
    return Reply(msgspec.json.encode(value), "application/json", [], status)
