"""What the scheduler compares of a chat whose prompt the backend renders itself.

The text is not the server's prompt, but it begins as another one does exactly where the server's
prompts begin alike: with the same tools, and the same first messages. So a conversation returns to
the backend that has its blocks cached, and a new one goes where its system message is.
"""

from __future__ import annotations

import msgspec

from ..core.request import CompletionRequest, Message

_END = "\0"
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
        text += f"{media.url or media.data}{_END}"
    return text
