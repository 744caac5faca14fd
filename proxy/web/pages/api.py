"""What all calls of pages' scripts have in common: who asks, what is asked, answers in JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from flask import Response, make_response, request

from ...core.invalid import Invalid
from ...errors import NotFound
from .. import body
from ..reply import Reply
from ..services import services

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...knowledge.service import Knowledge
    from ...store.conversations import ConversationStore


def owner() -> str:
    return services().keys.check(request.environ)


def asked() -> dict[str, Any]:
    return body.read_json(request.environ, services().settings.max_body)


def share(asked: Mapping[str, Any], name: str, prefix: str = "") -> float | None:
    """A number from 0 to 1, if given. Raises Invalid."""
    value = asked.get(name)
    if value is not None and (type(value) not in (int, float) or not 0 <= value <= 1):
        raise Invalid(f"{prefix}{name}", "must be a number from 0 to 1")
    return value


def knowledge() -> Knowledge:
    """Raises NotFound where the extra is not installed."""
    found = services().knowledge
    if found is None:
        raise NotFound("knowledge bases are not installed: pip install 'slotproxy[knowledge]'")
    return found


def conversations() -> ConversationStore:
    """Raises NotFound where the extra is not installed."""
    found = services().conversations
    if found is None:
        raise NotFound("conversations are not installed: pip install 'slotproxy[knowledge]'")
    return found


def json(value: object, status: int = 200) -> Response:
    return Reply(msgspec.json.encode(value), "application/json", [], status)


def done() -> Response:
    return make_response("", 204)
