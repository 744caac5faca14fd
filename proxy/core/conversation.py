"""Conversations that are longer than a context: where they may be cut, and how they are summed up.

A conversation is a head of system messages and the turns after it. A cut drops the turns before it,
and never parts the result of a tool from its call. What is dropped can be replaced by a summary:
the instruction for it is the last message, so that the cached part of the prompt is used.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from itertools import accumulate

import msgspec
from msgspec import structs

from .request import CompletionRequest, Media, Message, OutputFormat, Report, ToolChoice

LONGEST = 1024  # tokens of a summary
NEWEST = 64 << 10  # characters of the newest messages that are tried first
LEAD = "Summary of the conversation so far:\n"
ASK = (
    "Summarize this conversation so that you can continue it without reading it again: what the"
    " user wants, facts, names, numbers, decisions, results of tools, and what remains to be done."
    " Write only the summary."
)

Fits = Callable[[CompletionRequest], bool]
"""Whether a request fits the context."""


def joined(*run: Message) -> Message:
    """Joins messages of one role: templates require alternating roles."""
    if len(run) == 1:
        return run[0]
    media: list[Media] = []
    parts: list[int] = []
    length = 0
    for message in run:
        if message.content:
            length += bool(length)  # the line break between them
            parts += [part + length for part in message.parts or (0,)]
        media += [structs.replace(m, at=m.at + length) for m in message.media]
        length += len(message.content)
    return structs.replace(
        run[0],
        content="\n".join(filter(None, (message.content for message in run))),
        reasoning="\n".join(filter(None, (message.reasoning for message in run))),
        tool_calls=tuple(call for message in run for call in message.tool_calls),
        media=tuple(media),
        parts=tuple(parts) if any(message.parts for message in run) else (),
        cites=any(message.cites for message in run),
    )


def head_of(messages: Sequence[Message]) -> int:
    """The number of system messages that a conversation begins with."""
    roles = (i for i, message in enumerate(messages) if message.role != "system")
    return next(roles, len(messages))


def cuts(messages: Sequence[Message]) -> list[int]:
    """The places before which a conversation can be summed up: what remains begins with no tool
    result, and has the last message of the user, or the last calls of tools."""
    head = head_of(messages)
    needed = (
        i for i, message in enumerate(messages) if message.role == "user" or message.tool_calls
    )
    last = max(needed, default=0)
    return [i for i in range(head + 1, last + 1) if messages[i].role != "tool"]


def shortened(request: CompletionRequest, fits: Fits) -> CompletionRequest:
    """Drops as few of the oldest messages as needed to fit. The head and the last message stay, and
    no tool result is left without its call. Raises the errors of `fits`."""
    chat = request.messages
    head = head_of(chat)
    starts = [i for i in range(head, len(chat)) if chat[i].role != "tool" or i == len(chat) - 1]
    return _from(request, head, first_that_fits(request, starts, fits)) if starts else request


def first_that_fits(request: CompletionRequest, starts: Sequence[int], fits: Fits) -> int:
    """The first of these places with which the head and the messages from there on fit; the last
    place is not tried. Tries the newest messages first and doubles their characters each time,
    so that the cost depends on what fits. Raises the errors of `fits`."""
    chat = request.messages
    head = head_of(chat)
    from_end = list(accumulate(message.characters for message in reversed(chat[head:])))
    sizes = [-from_end[len(chat) - start - 1] for start in starts]  # negative, so that they ascend
    low, high = 0, len(starts) - 1
    room = NEWEST
    while low < high:
        middle = min(bisect_left(sizes, -room, low, high), high - 1)
        if not fits(_from(request, head, starts[middle])):
            low = middle + 1
            break
        high = middle
        room = 2 * max(room, -sizes[middle])
    rest = range(low, high)
    low += bisect_left(rest, True, key=lambda at: fits(_from(request, head, starts[at])))
    return starts[low]


def digests(messages: Sequence[Message]) -> Iterator[bytes]:
    """The digest of each beginning of a conversation: of no messages, of the first one, …"""
    running = blake2b(digest_size=16)
    encode = msgspec.msgpack.Encoder().encode
    yield running.digest()
    for message in messages:
        running.update(encode(message))
        yield running.digest()


def with_summary(messages: Sequence[Message], cut: int, summary: str) -> tuple[Message, ...]:
    """The conversation with a summary in place of the turns before the cut."""
    head = head_of(messages)
    lead = Message(role="user", content=LEAD + summary, cites=True)
    rest = messages[cut:]
    if rest and rest[0].role == "user":
        lead, rest = joined(lead, rest[0]), rest[1:]
    return (*messages[:head], lead, *rest)


def asking(
    request: CompletionRequest, longest: int = LONGEST, instructions: str = ""
) -> CompletionRequest:
    """The request for a summary of at most so many tokens."""
    *before, last = request.messages
    ask = Message(role="user", content=instructions or ASK)
    end = [joined(last, ask)] if last.role == "user" else [last, ask]
    return structs.replace(request, messages=(*before, *end), max_tokens=longest)


def plain(request: CompletionRequest) -> CompletionRequest:
    """The request for one plain answer to its messages, whose prompt is the same."""
    return structs.replace(
        request,
        sampling={"temperature": 0.0},
        max_length=None,
        stop=(),
        n=1,
        logprobs=None,
        searches=(),
        servers=(),
        approved=(),
        tool_choice=request.tool_choice if request.tool_choice.mode == "none" else ToolChoice(),
        output=OutputFormat(),
        report=Report(),
        compaction=None,
        return_prompt_tokens=False,
    )


def _from(request: CompletionRequest, head: int, start: int) -> CompletionRequest:
    return structs.replace(request, messages=request.messages[:head] + request.messages[start:])
