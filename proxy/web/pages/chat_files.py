"""Files of a conversation: each conversation has a temporary knowledge base of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flask import Response, request

from ...errors import InvalidParameter, NotFound
from .. import body
from ..services import current_services
from ..spine import json_response
from . import api, guard

if TYPE_CHECKING:
    from ...store.conversations import StoredConversation

blueprint = guard.guarded("chat_files")

API = "/pages/api/chat/conversations/<conversation>/files"
SETTING = "files"  # in a conversation's settings: the id of its base


def base_of(conversation: StoredConversation) -> str:
    """Return the id of the conversation's base. Raises InvalidParameter if it has none."""
    base = conversation.settings.get(SETTING)
    if not base:
        raise InvalidParameter("options.base", "this conversation has no files")
    return str(base)


def forget(owner: str, conversation: StoredConversation) -> None:
    knowledge, base = current_services().knowledge, conversation.settings.get(SETTING)
    if knowledge is not None and base:
        with contextlib.suppress(NotFound):  # the base has expired
            knowledge.delete(owner, str(base))


@blueprint.get(API)
def files(conversation: str) -> Response:
    """List the conversation's files and their state; empty if the base has expired."""
    knowledge, store, owner = api.knowledge(), api.conversations(), api.owner()
    base = store.get(owner, conversation).settings.get(SETTING)
    try:
        documents = knowledge.documents(owner, base) if base else ()
    except NotFound:
        documents = ()
    return json_response(documents)


@blueprint.post(API)
def add(conversation: str) -> Response:
    """Add a file: the body is its content, `?name=` its name. Replaces a file of the same name."""
    knowledge, store, owner = api.knowledge(), api.conversations(), api.owner()
    known = store.get(owner, conversation)
    name = request.args.get("name", "")
    base = known.settings.get(SETTING)
    with body.spooled(request.environ, current_services().settings.max_document) as data:
        try:
            if not base:
                raise NotFound("no file was attached yet")
            document = knowledge.add(owner, str(base), name, data, replace=True)
        except NotFound:  # or the base has expired
            base = _new_base(owner, known.id, instead_of=base)
            document = knowledge.add(owner, base, name, data, replace=True)
    return json_response(document, 201)


def _new_base(owner: str, conversation: str, instead_of: str | None) -> str:
    """Give the conversation a base, unless another request has just done so. Returns its id."""
    knowledge = api.knowledge()
    made = knowledge.create(owner, "", temporary=True).id

    def choose(settings: Mapping[str, Any]) -> Mapping[str, Any]:
        return settings if settings.get(SETTING) != instead_of else {**settings, SETTING: made}

    chosen = str(api.conversations().change(owner, conversation, edit=choose).settings[SETTING])
    if chosen != made:
        knowledge.delete(owner, made)
    return chosen


@blueprint.delete(f"{API}/<document>")
def remove(conversation: str, document: str) -> Response:
    knowledge, store, owner = api.knowledge(), api.conversations(), api.owner()
    knowledge.remove(owner, base_of(store.get(owner, conversation)), document)
    return api.done()
