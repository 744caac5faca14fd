"""Images in a conversation: data: URLs in the message's `extra`, [{"name", "url"}]. A page gets
their names, and fetches the images it shows."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flask import Response, make_response, request
from markupsafe import escape
from msgspec.structs import replace

from ...apis import fields
from ...core.request import Media, Message
from ...errors import InvalidParameter, NotFound
from ...gateway.generation import MAX_MEDIA
from ...gateway.sent_prompt import check_media
from . import api, guard, shell, texts

if TYPE_CHECKING:
    from ...store.conversations import StoredMessage

blueprint = guard.guarded("chat_images")

MOST = 8  # per message
NO_MARK = re.compile(r"[^\w .-]")
NAME = "images"  # key in `extra`, and in a question's body


def read(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a question's images in their stored form. Raises InvalidParameter or BadRequest."""
    images = [
        {"name": fields.required(image, "name", at)[:255], "url": fields.required(image, "url", at)}
        for image, at in fields.objects(body, NAME)
    ]
    if len(images) > MOST:
        raise InvalidParameter(NAME, f"must be a list of at most {MOST}")
    check_media([Message(role="user", media=media_of(images))], MAX_MEDIA)
    return images


def kept(message: StoredMessage) -> list[dict[str, str]]:
    images: list[dict[str, str]] = message.extra.get(NAME, [])
    return images


def media_of(images: list[dict[str, str]]) -> tuple[Media, ...]:
    return tuple(Media(kind="image", url=image["url"]) for image in images)


def shown(message: StoredMessage) -> StoredMessage:
    """Return a message as pages get it, with only the names of its images."""
    if not kept(message):
        return message
    names = [{"name": image["name"]} for image in kept(message)]
    return replace(message, extra={**message.extra, NAME: names})


def markdown(message: StoredMessage) -> str:
    parts = [f"![{NO_MARK.sub('', image['name'])}]({image['url']})" for image in kept(message)]
    return "\n\n".join([*parts, message.content])


@blueprint.get("/pages/api/chat/messages/<message>/images/<int:number>")
def image(message: str, number: int) -> Response:
    images = kept(api.conversations().message(api.owner(), message))
    if number >= len(images):
        raise NotFound("no such image in this message")
    head, _, data = images[number]["url"].partition(";base64,")
    response = make_response(base64.b64decode(data))
    response.mimetype = head.removeprefix("data:")
    response.headers["Content-Security-Policy"] = "default-src 'none'"
    response.cache_control.private = True
    response.cache_control.max_age = 24 * 3600
    return response


# An image of another host that the user asked for is in a page of its own, in a frame. The policy
# of that page admits that host alone. The gateway itself fetches nothing.
ADDRESS = re.compile(r"(https?)://([a-z0-9.-]{1,253}(?::[0-9]{1,5})?)(?:[/?#].*)?", re.I | re.A)
STYLE = (
    "html{color-scheme:light dark}body{margin:0;display:grid;place-items:center;height:100vh}"
    "img{max-width:100%;max-height:100vh}"
)
DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
FRAME = (
    f"default-src 'none'; img-src {{}}; style-src 'sha256-{DIGEST}'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'self'; sandbox"
)


@blueprint.get("/pages/api/chat/picture")
def picture() -> Response:
    """A page with the image at `?address=`, for a frame. Raises InvalidParameter."""
    address = request.args.get("address", "")
    match = ADDRESS.fullmatch(address)
    if match is None or len(address) > 4000:
        raise InvalidParameter("address", "must be an http or https address of an image")
    scheme, host = match[1].lower(), match[2].lower()
    spoken = shell.language()
    response = make_response(
        f'<!doctype html><html lang="{spoken}"><meta charset="utf-8"><title>{escape(host)}</title>'
        f"<style>{STYLE}</style>"
        f'<img src="{escape(address)}" alt="{escape(texts.words(spoken, "rich.no_picture"))}">'
    )
    response.headers["Content-Security-Policy"] = FRAME.format(f"{scheme}://{host}")
    response.headers["Referrer-Policy"] = "no-referrer"
    return response
