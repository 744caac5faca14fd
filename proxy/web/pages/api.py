"""Common parts of the routes that page scripts call: caller, JSON body and stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flask import Response, make_response, request

from ...errors import InvalidParameter, NotFound
from .. import permissions
from ..services import current_services

if TYPE_CHECKING:
    from ...knowledge.service import Knowledge
    from ...store.conversations import ConversationStore


def owner() -> str:
    return current_services().keys.check(request.environ)


def share(body: Mapping[str, Any], name: str, prefix: str = "") -> float | None:
    """Return a number from 0 to 1, or None if missing. Raises InvalidParameter."""
    value = body.get(name)
    if value is not None and (type(value) not in (int, float) or not 0 <= value <= 1):
        raise InvalidParameter(f"{prefix}{name}", "must be a number from 0 to 1")
    return value


def knowledge() -> Knowledge:
    """The knowledge bases that the caller may use. Raises NotFound without the extra."""
    owner()  # permissions are those of a checked key
    available = permissions.knowledge(current_services(), request.environ)
    if available is None:
        raise NotFound("knowledge bases need the extra `knowledge`, which is not installed")
    return available


def conversations() -> ConversationStore:
    """Raises NotFound if the knowledge extra is not installed."""
    available = current_services().conversations
    if available is None:
        raise NotFound("conversations need the extra `knowledge`, which is not installed")
    return available


def done() -> Response:
    return make_response("", 204)


def download(response: Response, name: str, kind: str) -> Response:
    """The response as a file of this name and media type."""
    response.mimetype = kind
    name = quote(name, safe="")
    response.headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{name}"
    return response
