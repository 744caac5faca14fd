"""Checks images and sound in messages before they go to a backend.

Only data that the client sends itself is accepted: with an address, the client could make the
backend fetch any URL.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import attrgetter

from ..core.request import Media, Message
from ..errors import BadRequest

IMAGE = re.compile(r"data:image/(?:png|jpe?g|webp|gif|bmp);base64,")
BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
SOUNDS = ("wav", "mp3")
NONE: frozenset[str] = frozenset()
_MEDIA = attrgetter("media")


def check(messages: Sequence[Message], limit: int) -> frozenset[str]:
    """The kinds of media in the messages. Raises BadRequest for invalid media, or more than `limit`
    bytes."""
    if not any(map(_MEDIA, messages)):
        return NONE
    kinds: set[str] = set()
    for i, message in enumerate(messages):
        for media in message.media:
            kinds.add(media.kind)
            wrong = _wrong(media, limit)
            if wrong:
                raise BadRequest(
                    f"messages[{i}]: the {media.kind} {wrong}", param=f"messages[{i}].content"
                )
    return frozenset(kinds)


def _wrong(media: Media, limit: int) -> str:
    data = media.data
    if media.kind == "image":
        head = IMAGE.match(media.url)
        if head is None:
            return "must be a data: URL of a png, jpeg, webp, gif or bmp in base64"
        data = media.url[head.end() :]
    elif media.format not in SOUNDS:
        return f"must have the format {' or '.join(SOUNDS)}"
    if len(data) * 3 // 4 > limit + 2:
        return f"is larger than {limit} bytes"
    if not BASE64.fullmatch(data) or len(data) % 4:
        return "is not valid base64"
    return ""
