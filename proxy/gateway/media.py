"""Checks images and sound in messages before they go to a backend.

Only data that the client sends itself is accepted: with an address, the client could make the
backend fetch any URL.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter
from time import monotonic, thread_time

from ..core.request import CompletionRequest, Media, Message
from ..errors import BadRequest
from ..prompting.prompt import Prompter, RenderedPrompt, Unrendered
from ..runtime.blocking import run_in_native_thread

# Renders prompts, on the event loop if that is fast, otherwise in a native thread.
#
# A template is a stranger's program. The sandbox bounds its work, so it ends; how long it takes
# is measured. The first prompt of a template is rendered in a thread, and so are the next ones
# after a slow one, but not all: a garbage collection makes any template slow for once.
SLOW = 0.02  # seconds
AFTER_SLOW = 100  # renderings in a thread after a slow one
# Longer conversations are always rendered in a thread:
LONG = 256  # messages
LARGE = 256 << 10  # characters


def rendered(
    prompter: Prompter | Unrendered, request: CompletionRequest, now: datetime
) -> RenderedPrompt:
    """Render the prompt of a request. Raises InvalidParameter if the template refuses it."""
    if isinstance(prompter, Unrendered):
        return prompter.render(request, now)

    is_long = _is_long(request)
    in_thread = is_long or prompter.in_thread > 0
    # A thread also waits for others; on the event loop, only the system may interrupt. Asking for
    # the time of a thread takes as long as a tenth of a rendering.
    clock = thread_time if in_thread else monotonic

    def timed() -> RenderedPrompt:
        began = clock()
        try:
            return prompter.render(request, now)
        finally:
            if is_long:
                pass  # it tells nothing of shorter ones
            elif clock() - began > SLOW:
                prompter.in_thread = AFTER_SLOW
            elif prompter.in_thread:
                prompter.in_thread -= 1

    return run_in_native_thread(timed) if in_thread else timed()


def _is_long(request: CompletionRequest) -> bool:
    if len(request.messages) >= LONG:
        return True
    size = 0
    for message in request.messages:
        size += len(message.content)
        for call in message.tool_calls:
            size += len(call.arguments)
    return size > LARGE


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
