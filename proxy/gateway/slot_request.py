"""What the scheduler is asked for a request.

It compares prompts, or a text in place of one that the backend renders itself. The text is not
the server's prompt, but it begins as another one does exactly where the server's prompts begin
alike: with the same tools, and the same first messages. So a conversation returns to the backend
that has its blocks cached, and a new one goes where its system message is. A picture or a sound
stands there as its digest, since the scheduler keeps the text.
"""

from __future__ import annotations

from functools import partial
from hashlib import sha256

import msgspec

from ..core.adapters import group_of
from ..core.request import CompletionRequest, Message
from ..core.task import Task
from ..runtime.blocking import run_in_native_thread
from ..scheduling.prefix import chain_of
from ..scheduling.state import SlotRequest
from .context import Caller, GatewayContext

_END = "\0"
LARGE = 1 << 20  # characters or token ids of a prompt or picture, from which a thread hashes it
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
        text += f"{picture_digest(media.url or media.data)}{_END}"
    return text


def picture_digest(data: str) -> str:
    """Of a picture or sound in base64."""

    def digest() -> str:
        return sha256(data.encode("utf-8", "surrogatepass")).hexdigest()

    return digest() if len(data) <= LARGE else run_in_native_thread(digest)


def slot_request_of(context: GatewayContext, task: Task, model: str, caller: Caller) -> SlotRequest:
    text, boundaries, request = task.prompt, task.boundaries, task.request
    is_side_job, group = caller.background, caller.group
    if messages := request.messages:
        if not text:
            text, boundaries = placement_text(request)
        is_side_job |= messages[-1].content.lstrip().startswith(context.side_jobs)
    if "lora" in task.sampling:
        group = group_of(group, task.sampling["lora"])
    salt, turns = f"{model}\0{group}", context.turns
    if len(text) <= LARGE:
        chain = chain_of(text, boundaries, salt, turns)
    else:
        chain = run_in_native_thread(partial(chain_of, text, boundaries, salt, turns))
    return SlotRequest(
        model=model,
        ids=type(text) is tuple,
        max_tokens=task.max_tokens,
        chain=chain,
        key=caller.key,
        person=caller.person,
        group=group,
        session=request.session,
        share=caller.share,
        since=context.clock(),
        barred=caller.may.barred_tiers,
        background=is_side_job,
        idle=caller.idle,
        tools=bool(request.tools),
    )
