"""Arranges and writes messages so that a template takes them, by its `MessageRules`.

Nothing that a message says is lost: a system message that may not stand in its place becomes part
of the user's message beside it, and turns are joined or split.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from hashlib import blake2b
from operator import attrgetter
from typing import Any, Literal

from msgspec import Struct, structs

from ...core.conversation import joined
from ...core.decoding import Decoding
from ...core.request import Message, Role, ToolCall
from ..formats.base import ID, CallShape
from ..formats.generic import GENERIC
from ..formats.objects import write_calls


class MessageRules(Struct, frozen=True, kw_only=True):
    """How messages must be arranged and written so that a template takes all of them."""

    system: Literal["anywhere", "first", "none"] = "anywhere"
    """Where system messages may stand; others become part of a neighbour."""
    alternates: bool = False
    """Whether user and assistant must take turns, the user first."""
    content: Literal["text", "both", "parts"] = "text"
    """Whether contents must be texts, may be lists of parts, or must be lists of parts."""
    text_roles: tuple[Role, ...] = ()
    """Roles whose contents must be texts even so."""
    trims: bool = False
    """Whether white space around contents misleads the model."""

    tools: bool = False
    calls: bool = False
    call_ids: Literal["any", "nine"] = "any"
    """Whether ids of calls must have nine letters or digits."""
    calls_per_turn: Literal["many", "one"] = "many"
    arguments: Literal["object", "text"] = "object"
    results: Literal["messages", "responses"] = "messages"
    """Whether results are messages, or the `tool_responses` of the assistant's message."""
    text_with_calls: bool = True
    """Whether a message with calls may have a text; otherwise the text is a message before it."""
    user_after_result: bool = True
    """Whether a user's message may follow a tool's result; otherwise it joins the result."""

    reasoning: Literal["reasoning_content", "thinking", "parts"] = "reasoning_content"
    """Where the template reads reasoning: in this field, or in parts of the content."""
    text_with_thought_calls: bool = True
    """Whether a message with calls and reasoning may have a text too."""
    thinks: bool = False
    """Whether the template has a switch for thinking, `enable_thinking`."""
    efforts: tuple[str, ...] = ()
    """The words for reasoning_effort that the template takes, the least first."""

    opening: str = ""
    """What begins the model's turn, with thinking on."""
    lead: str | None = None
    """What follows that in an answer without reasoning; None if such an answer begins otherwise."""
    thought: tuple[str, str] | None = None
    """What follows `opening` before the reasoning of the last answer, and what is between that and
    the text."""
    end: str = ""
    """The end of the assistant's turn, or if nothing marks that, the beginning of the user's."""
    end_is_token: bool = False
    """Whether `end` has the form of a special token."""


ANY = MessageRules()
Decode = Callable[[str], Any]
_ROLE, _CALLS = attrgetter("role"), attrgetter("tool_calls")
_OWN = re.compile(r"call_[0-9a-f]{24}-([\w-]{1,64})")
_NINE = re.compile(r"[A-Za-z0-9]{9}")


def arranged(messages: Sequence[Message], rules: MessageRules) -> Sequence[Message]:
    out = messages
    roles, has_calls = [*map(_ROLE, out)], any(map(_CALLS, out))
    if rules.system != "anywhere" and "system" in roles[rules.system == "first" :]:
        out = _without_systems(out, 1 if rules.system == "first" else 0)
    if has_calls:
        if not rules.text_with_calls:
            out = [part for message in out for part in _apart(message)]
        if rules.calls_per_turn == "one":
            out = _split(out)
        rename = _short if rules.call_ids == "nine" else _models
        out = [_with_ids(message, rename) for message in out]
    if not rules.user_after_result and "tool" in roles:
        out = _joined_where(out, lambda before, m: m.role == "user" and before.role == "tool")
    if rules.alternates:
        out = _joined_where(out, _speaks_twice)
        first = next((m.role for m in out if m.role != "system"), "user")
        if first == "assistant":
            head = sum(m.role == "system" for m in out[:1])
            out = [*out[:head], Message(role="user"), *out[head:]]
    return out


def _without_systems(messages: Sequence[Message], allowed: int) -> list[Message]:
    """The messages with at most so many of the system, at the beginning. Each other one begins the
    user's message after it, or ends the one before it, or is a user's message."""
    head = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
    leading = [joined(*messages[:head])] if head and allowed else []
    out: list[Message] = []
    instructions: list[Message] = []
    for message in messages[len(leading) and head :]:
        if message.role == "system":
            instructions.append(structs.replace(message, role="user"))
            continue
        if instructions and message.role == "user":
            message = joined(*instructions, message)
        elif instructions:
            _tell(out, instructions)
        instructions = []
        out.append(message)
    if instructions:
        _tell(out, instructions)
    return leading + out


def _tell(messages: list[Message], instructions: Sequence[Message]) -> None:
    """Adds instructions that precede no message of the user."""
    if messages and messages[-1].role == "user":
        instructions = [messages.pop(), *instructions]
    messages.append(joined(*instructions))


def _joined_where(
    messages: Sequence[Message], joins: Callable[[Message, Message], bool]
) -> list[Message]:
    """The messages, each run of which every message joins the one before it as one message."""
    runs: list[list[Message]] = []
    for message in messages:
        if runs and joins(runs[-1][-1], message):
            runs[-1].append(message)
        else:
            runs.append([message])
    return [joined(*run) for run in runs]


def _speaks_twice(before: Message, message: Message) -> bool:
    role = message.role
    return role == before.role and role in ("user", "assistant") and not before.tool_calls


def _apart(message: Message) -> tuple[Message, ...]:
    if not (message.tool_calls and message.content):
        return (message,)
    plain = structs.replace(message, tool_calls=(), reasoning="")
    return plain, structs.replace(message, content="", parts=(), media=())


def _split(messages: Sequence[Message]) -> list[Message]:
    """The messages with one call a turn, each followed by its result."""
    turns: list[list[Message]] = []
    by_call: dict[str, list[Message]] = {}  # of the last message with calls
    for message in messages:
        if message.role == "tool" and turns:
            by_call.get(message.tool_call_id, turns[-1]).append(message)
            continue
        by_call = {}
        if not message.tool_calls:
            turns.append([message])
        for i, call in enumerate(message.tool_calls):
            first = message if not i else Message(role="assistant", name=message.name)
            by_call[call.id] = [structs.replace(first, tool_calls=(call,))]
            turns.append(by_call[call.id])
    return [message for turn in turns for message in turn]


def with_written_calls(messages: Sequence[Message], shape: CallShape) -> list[Message]:
    """The messages with their calls as texts, for templates that describe tools and write no
    calls."""
    decode = Decoding()
    out = []
    for message in messages:
        if message.tool_calls:
            calls = ((c.name, _object(c.arguments, decode)) for c in message.tool_calls)
            text = write_calls(
                shape,
                *((name, v if isinstance(v, dict) else {"arguments": v}) for name, v in calls),
            )
            for call in message.tool_calls:
                text = text.replace(ID, call.id, 1)
            text = "\n".join(filter(None, (message.content, text)))
            message = structs.replace(message, content=text, tool_calls=(), parts=())
        out.append(message)
    return out


def as_texts(messages: Sequence[Message], guide: str = "") -> Sequence[Message]:
    """The conversation for a template without tools: calls become the JSON of `formats.generic`,
    and adjacent results one user message."""
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    out: list[Message] = []
    role = ""
    for message in with_written_calls(messages, GENERIC.shape):
        content = message.content
        if message.role == "tool":
            id = message.tool_call_id
            name = message.name or names.get(id) or id or "tool"
            result = f"Result of {name}:\n{content}"
            before = f"{out.pop().content}\n\n" if role == "tool" else ""
            out.append(Message(role="user", content=before + result))
        else:
            out.append(Message(role=message.role, content=content, media=message.media))
        role = message.role
    return guided(out, guide) if guide else out


def guided(messages: Sequence[Message], guide: str) -> Sequence[Message]:
    """The messages with `guide` at the end of the system message."""
    if messages and messages[0].role == "system":
        guide, messages = f"{messages[0].content}\n\n{guide}".lstrip(), messages[1:]
    return [Message(role="system", content=guide), *messages]


def _with_ids(message: Message, rename: Callable[[str], str]) -> Message:
    if message.tool_calls:
        calls = tuple(ToolCall(rename(c.id), c.name, c.arguments) for c in message.tool_calls)
        return structs.replace(message, tool_calls=calls)
    if message.role == "tool":
        return structs.replace(message, tool_call_id=rename(message.tool_call_id))
    return message


def _models(id: str) -> str:
    """The id that the model wrote, which ours ends with: its slot has the same text."""
    ours = _OWN.fullmatch(id)
    return ours[1] if ours else id


def _short(id: str) -> str:
    """The model's id, or a digest of it with nine letters and digits."""
    id = _models(id)
    if _NINE.fullmatch(id):
        return id
    return blake2b(id.encode("utf-8", "surrogatepass"), digest_size=5).hexdigest()[:9]


def as_dicts(messages: Sequence[Message], rules: MessageRules = ANY) -> list[dict[str, Any]]:
    """Messages in the form that Hugging Face's templates read."""
    decode = Decoding()
    out = [_as_dict(message, rules, decode) for message in messages]
    if rules.results == "responses" and "tool" in map(_ROLE, messages):
        return _with_responses(out, decode)
    return out


def _as_dict(message: Message, rules: MessageRules, decode: Decode) -> dict[str, Any]:
    out: dict[str, Any] = {"role": message.role, "content": message.content}
    takes_parts = rules.content != "text" and (message.parts or rules.content == "parts")
    if takes_parts and message.role not in rules.text_roles:
        texts = [piece for piece in message.pieces if isinstance(piece, str)]
        if rules.trims:
            texts = [*map(str.strip, texts)]
        out["content"] = [{"type": "text", "text": text} for text in texts]
    elif rules.trims:
        out["content"] = message.content.strip()
    if message.name:
        out["name"] = message.name
    if message.tool_calls:
        out["tool_calls"] = calls = []
        for call in message.tool_calls:
            arguments = call.arguments or "{}"
            if rules.arguments == "object":
                arguments = _object(arguments, decode)
            function = {"name": call.name, "arguments": arguments}
            calls.append({"id": call.id, "type": "function", "function": function})
    if message.tool_call_id:
        out["tool_call_id"] = message.tool_call_id
    if message.reasoning:
        _write_reasoning(out, message, rules)
    return out


def _with_responses(messages: Sequence[dict[str, Any]], decode: Decode) -> list[dict[str, Any]]:
    """The messages with results and the answer inside the message with their calls, as Gemma 4 has
    them."""
    out: list[dict[str, Any]] = []
    turn: dict[str, Any] | None = None  # the message with calls that is not answered yet
    names: dict[str, str] = {}
    for message in messages:
        for call in message.get("tool_calls", ()):
            names[call["id"]] = call["function"]["name"]
        if message.get("tool_call_id") in names:
            message.setdefault("name", names[message["tool_call_id"]])
        if turn is not None and message["role"] == "tool":
            response = message["content"]
            if isinstance(response, str):
                with suppress(ValueError):
                    response = decode(response)
            name = message.get("name") or message.get("tool_call_id", "")
            result = {"name": name, "response": response}
            turn.setdefault("tool_responses", []).append(result)
            continue
        answers = message["role"] == "assistant" and "tool_calls" not in message
        if turn is not None and answers and message["content"]:
            texts = (turn["content"], message["content"])
            turn["content"] = "\n".join(filter(None, map(_plain, texts)))
            turn = None
            continue
        out.append(message)
        turn = message if message.get("tool_calls") else None
    return out


def _plain(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def _write_reasoning(out: dict[str, Any], message: Message, rules: MessageRules) -> None:
    if rules.reasoning == "parts":
        content = out["content"]
        texts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        out["content"] = [{"type": "thinking", "thinking": message.reasoning}, *texts]
        return
    reasoning = message.reasoning.strip() if rules.trims else message.reasoning
    out["reasoning_content"] = reasoning
    if rules.reasoning == "thinking":
        out["thinking"] = reasoning
    if message.tool_calls and not rules.text_with_thought_calls:
        out["content"] = ""


def with_objects(messages: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The messages with each call's arguments as an object: the text of a call that was cut off
    becomes its only member. The same messages if all are objects."""
    whole = deepcopy([*messages])
    for message in whole:
        for call in message.get("tool_calls", ()):
            function = call["function"]
            if isinstance(function["arguments"], str):
                function["arguments"] = {"arguments": function["arguments"]}
    return whole if whole != messages else messages


def _object(text: str, decode: Decode) -> Any:
    """The arguments as an object, or the text itself if they are not one."""
    try:
        value = decode(text or "{}")
    except ValueError:
        return text
    return value if isinstance(value, Mapping) else text
