"""Files dropped into a conversation: its own temporary knowledge base, kept as long as that is."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from flask import Blueprint, Response, request

from ...core.invalid import Invalid
from ...errors import NotFound
from .. import body
from ..services import services
from . import api, guard

if TYPE_CHECKING:
    from ...store.conversations import Conversation

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


def forget(owner: str, conversation: Conversation) -> None:
    """Its files go with it."""
    knowledge, base = services().knowledge, conversation.settings.get(SETTING)
    if knowledge is not None and base:
        with contextlib.suppress(NotFound):  # where its time was over
            knowledge.delete(owner, str(base))


@blueprint.get(API)
def files(conversation: str) -> Response:
    """What was dropped into it, and how far it is read; nothing where that was too long ago."""
    knowledge, store, owner = api.knowledge(), api.conversations(), api.owner()
    base = store.get(owner, conversation).settings.get(SETTING)
    try:
        found = knowledge.documents(owner, base) if base else ()
    except NotFound:
        found = ()
    return api.json(found)


@blueprint.post(API)
def add(conversation: str) -> Response:
    """The body is the file, `?name=` its name; instead of one of the same name."""
    knowledge, store, owner = api.knowledge(), api.conversations(), api.owner()
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
    return api.json(document, 201)


@blueprint.delete(f"{API}/<document>")
def remove(conversation: str, document: str) -> Response:
    knowledge, store, owner = api.knowledge(), api.conversations(), api.owner()
    knowledge.remove(owner, base_of(store.get(owner, conversation)), document)
    return api.done()
