"""What the scheduler compares of a chat whose prompt the backend renders itself.

The text is not the server's prompt, but it begins as another one does exactly where the server's
prompts begin alike: with the same tools, and the same first messages. So a conversation returns to
the backend that has its blocks cached, and a new one goes where its system message is. A picture
or a sound stands there as its digest, since the scheduler keeps the text.
"""

from __future__ import annotations

from functools import partial
from hashlib import sha256

import msgspec

from ..core.request import CompletionRequest, Message
from ..runtime.blocking import run_in_native_thread

_END = "\0"
_LARGE = 1 << 20  # characters of a picture or sound, from which it is hashed in a thread
_json = msgspec.json.Encoder().encode


def placement_text(request: CompletionRequest) -> tuple[str, tuple[int, ...]]:
    """The text, and the offsets where its messages end."""
    tools = [(tool.name, tool.description, tool.parameters) for tool in request.tools]
    texts = [_json(tools).decode() if tools else ""]
    size, ends = len(texts[0]), []
    for message in request.messages:
        text = _text(message)
        texts.append(text)
        size += len(text)
        ends.append(size)
    return "".join(texts), tuple(ends)


def _text(message: Message) -> str:
    text = f"{message.role}{_END}{message.content}{_END}"
    for call in message.tool_calls:
        text += f"{call.name}{_END}{call.arguments}{_END}"
    for media in message.media:
        text += f"{_digest(media.url or media.data)}{_END}"
    return text


def _digest(data: str) -> str:
    digest = partial(_sha256, data)
    return digest() if len(data) <= _LARGE else run_in_native_thread(digest)


def _sha256(data: str) -> str:
    return sha256(data.encode("utf-8", "surrogatepass")).hexdigest()
