"""The chat page prewarms a question while it is typed (see `gateway.prewarm`)."""

from __future__ import annotations

from contextlib import closing

from flask import Response, request

from ...apis import fields
from ...core.fold import fold
from ...core.request import Message
from ...errors import GatewayError
from ...gateway.explain import must_load
from ...gateway.prewarm import prewarm
from ..observability import Record
from ..services import current_services
from ..spine import asking
from . import api, guard
from .chat import LONGEST, messages_of, read

blueprint = guard.guarded("chat_warming")


@blueprint.post("/pages/api/chat/warm")
def warm() -> Response:
    """Prewarm `{"text", "parent_id", "conversation", "options"}`, as far as that costs nothing: a
    plain chat, a model that is loaded, no server that may take money for it, and no limits that
    would count it."""
    services, owner, body = current_services(), api.owner(), api.json_body()
    store, parent = api.conversations(), fields.text(body, "parent_id")
    question = Message(role="user", content=fields.text(body, "text").strip()[:LONGEST])
    before = messages_of(store.path(owner, parent)) if parent else []
    chosen, session = fields.mapping(body, "options"), fields.text(body, "conversation")
    wanted = read(chosen, [*before, question], services.layouts, owner, session)
    caller = services.callers.caller(owner, request.environ)
    gateway, record = services.gateway, Record.of(request.environ)
    if wanted.kind != "chat" or caller.allowance is not None or must_load(gateway, wanted.model):
        return api.done()
    if gateway.registry.ruled(wanted.model):  # the whole question chooses the model
        return api.done()
    chat = services.dialogues.chat(wanted, caller)
    pool = gateway.registry.pool(gateway.registry.resolve(chat.model)[0])
    if any(backend.caps is None or backend.caps.native for backend in pool):
        return api.done()
    record.key, record.user, record.team = owner, caller.user, caller.team
    record.route, record.status = str(request.url_rule), 204
    with asking(services, record, request.environ) as cancel:
        try:
            with closing(prewarm(gateway, chat, cancel, caller)) as answer:
                record.info = answer.info
                fold(answer)
        except GatewayError as error:  # the question itself will tell
            record.info.outcome = record.info.outcome or error.code or error.type
    return api.done()
