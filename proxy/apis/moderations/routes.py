"""Route of OpenAI's moderations, judged by the chat model of `--moderation-model`."""

from __future__ import annotations

from typing import Any

import msgspec
from flask import request

from ...core.fold import fold
from ...errors import NotFound
from ...gateway import Caller
from ...runtime.cancel import Cancel
from ...web import body
from ...web.observability import Record
from ...web.routes import Api
from ...web.services import Services
from ...web.spine import asking, json_route
from ..openai import chat as openai_chat
from . import answer as moderations

blueprint = Api("moderations", __name__, group="chat", tag="OpenAI")


@json_route(blueprint, "POST", "/v1/moderations", "/moderations", body="ModerationRequest")
def moderate(services: Services, record: Record) -> Any:
    """Scores of contents, by a chat model."""
    model = services.settings.moderation_model
    if not model:
        raise NotFound(
            "this gateway has no model for moderations: name a chat model with --moderation-model"
        )
    contents = moderations.parse(body.read_json(request.environ, services.settings.max_body))
    caller = services.callers.caller(record.key, request.environ)
    with asking(services, record, request.environ) as cancel:
        results = []
        for content in contents:
            results.append(_judged(services, record, model, content, caller, cancel))
            caller = msgspec.structs.replace(caller, begun=True)
    return moderations.reply(record.id, record.info.model, contents, results)


def _judged(
    services: Services,
    record: Record,
    model: str,
    content: str | list[Any],
    caller: Caller,
    cancel: Cancel,
) -> moderations.Judged:
    asked = openai_chat.parse(moderations.question(model, content))
    before = record.info.usage
    answer = services.gateway.answer(asked, cancel, caller)
    try:
        record.info = answer.info
        (completion,) = fold(answer)
    finally:
        answer.close()
        answer.info.usage += before
    return moderations.judged(model, completion.text)
