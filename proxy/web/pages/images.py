"""Images of a conversation: kept with the message they were sent with, and gone with it.

They are data: URLs in its `extra`, [{"name", "url"}]; a page gets their names, and fetches the
bytes of those it shows.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from flask import Blueprint, Response, make_response

from ...core.invalid import Invalid
from ...core.request import Media
from ...core.request import Message as Said
from ...errors import NotFound
from ...gateway import media
from ..services import services
from . import api, guard

if TYPE_CHECKING:
    from ...gateway import Gateway
    from ...store.conversations import Message

blueprint = Blueprint("chat_images", __name__)
guard.protect(blueprint)

MOST = 8  # of one message
NO_MARK = re.compile(r"[^\w .-]")
NAME = "images"  # in `extra`, and in what a page asks


def seen(gateway: Gateway, model: str) -> bool:
    """Whether a backend of this model is known to take images. Raises ModelNotFound."""
    pool, _ = gateway.registry.resolve(model)
    return any(
        caps.vision and (caps.native or (caps.chat and one.chat_mode != "completion"))
        for one in gateway.registry.pool(pool)
        if (caps := one.caps) is not None
    )


def read(asked: Mapping[str, Any]) -> list[dict[str, str]]:
    """Those of a question, as they are kept. Raises Invalid, BadRequest."""
    given = asked.get(NAME) or []
    if not isinstance(given, list) or len(given) > MOST:
        raise Invalid(NAME, f"must be a list of {MOST} at most")
    found = []
    for one in given:
        if not isinstance(one, dict) or not all(
            isinstance(one.get(name), str) for name in ("name", "url")
        ):
            raise Invalid(NAME, "must have a name and a url each")
        found.append({"name": one["name"][:255], "url": one["url"]})
    media.check([Said("user", media=media_of(found))], services().settings.max_media)
    return found


def kept(message: Message) -> list[dict[str, str]]:
    found: list[dict[str, str]] = message.extra.get(NAME, [])
    return found


def media_of(found: list[dict[str, str]]) -> tuple[Media, ...]:
    """As a model is told of them."""
    return tuple(Media("image", url=one["url"]) for one in found)


def shown(message: Message) -> Message:
    """A message as a page gets it: of images the names alone."""
    if not kept(message):
        return message
    names = [{"name": one["name"]} for one in kept(message)]
    return msgspec.structs.replace(message, extra={**message.extra, NAME: names})


def markdown(message: Message) -> str:
    """A message with its images, as Markdown that holds them."""
    parts = [f"![{NO_MARK.sub('', one['name'])}]({one['url']})" for one in kept(message)]
    return "\n\n".join([*parts, message.content])


@blueprint.get("/pages/api/chat/messages/<message>/images/<int:number>")
def image(message: str, number: int) -> Response:
    found = kept(api.conversations().message(api.owner(), message))
    if number >= len(found):
        raise NotFound("this message has no such image")
    head, _, data = found[number]["url"].partition(";base64,")
    response = make_response(base64.b64decode(data))
    response.mimetype = head.removeprefix("data:")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Security-Policy"] = "default-src 'none'"
    response.cache_control.private = True
    response.cache_control.max_age = 24 * 3600
    return response
