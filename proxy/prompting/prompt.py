"""Renders a conversation as prompt text, with a chat template or the reference script's format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import repeat
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Struct

from ..core.decoding import Decoding
from ..core.request import CompletionRequest, Message, Tool
from ..errors import InvalidParameter
from .constraints import callable_tools, must_call
from .families import Family
from .formats import generic
from .legacy import LegacyFormat
from .reasoning import opened_by
from .sandbox import TemplateError
from .templates import ChatTemplate

_LEGACY = Family(name="legacy")
_ROLE = attrgetter("role")
_CALLS = attrgetter("tool_calls")


class RenderedPrompt(Struct, frozen=True, kw_only=True):
    """`stops` are the family's end tokens, for the backend; `turns` are texts that begin another
    turn, for the gateway to match. `boundaries` are ascending offsets of the ends of turns.
    `tool_form` names the tool-call format described to the model, "" without tools. `thinks` is set
    if the model may reason before it answers. With `backend_templates` nothing was rendered: the
    backend takes messages. `unknown_template` is set if the model's own template is missing or its
    tool format is unknown."""

    text: str
    stops: tuple[str, ...] = ()
    turns: tuple[str, ...] = ()
    boundaries: tuple[int, ...] = ()
    family: Family = _LEGACY
    tool_form: str = ""
    thinks: bool = False
    backend_templates: bool = False
    unknown_template: bool = False


class Unrendered:
    """Used instead of a Prompter if the backend takes messages and renders the prompt."""

    def render(self, request: CompletionRequest, now: datetime) -> RenderedPrompt:
        return RenderedPrompt(text="", backend_templates=True)


class Prompter:
    """Renders chats for one model.

    `bos` and `eos` are the backend's, if it reported them. If the backend `adds_bos`, the prompt
    begins without one. `instead` says that `form` replaces the backend's own, unusable template."""

    def __init__(
        self,
        form: ChatTemplate | LegacyFormat,
        bos: str = "",
        eos: str = "",
        *,
        adds_bos: bool = True,
        instead: bool = False,
    ) -> None:
        self.form = form
        # How many of the next renderings run in a thread: the first one of an unknown template.
        self.in_thread = 0 if isinstance(form, LegacyFormat) else 1
        self._knows_tools = isinstance(form, ChatTemplate) and form.takes_tools
        self._marks = _marks(form)
        self._instead = instead
        self._bos = bos or None
        self._adds_bos = adds_bos
        self._eos = eos or None

    def render(self, request: CompletionRequest, now: datetime) -> RenderedPrompt:
        """Raises InvalidParameter if the template rejects the messages.

        If the last message is the beginning of an answer, its text is appended after the generation
        prompt and after any reasoning block that the template opens there."""
        beginning = begun(request)
        if beginning:
            request = msgspec.structs.replace(request, messages=request.messages[:-1])
        prompt = self._render(request, now)
        if not beginning:
            return prompt
        opened = opened_by(prompt.text)
        between = f"{opened[1]}\n\n" if opened is not None and opened[1] else ""
        if isinstance(self.form, LegacyFormat):
            between = " "
        text = prompt.text + between + beginning
        return msgspec.structs.replace(prompt, text=text, thinks=False)

    def _render(self, request: CompletionRequest, now: datetime) -> RenderedPrompt:
        form, chat = self.form, request.messages
        messages = as_dicts(chat)
        has_results = "tool" in map(_ROLE, chat)
        if has_results:
            _name_results(messages)
        tools: list[dict[str, Any]] = []
        tool_form = ""
        if callable_tools(request):
            # All tools are described, even if one is named, to keep the prefix of a conversation
            # stable.
            tools = [tool_dict(t) for t in request.tools]
            tool_form = form.tool_form if isinstance(form, ChatTemplate) else "generic"
        knows_tools = self._knows_tools
        if not knows_tools and (tools or has_results or any(map(_CALLS, chat))):
            messages = generic.rewrite(messages, tools)
        if isinstance(form, LegacyFormat):
            text = form.render(messages)
            return RenderedPrompt(
                text=text,
                stops=form.stops,
                boundaries=_boundaries(text, self._marks),
                tool_form=tool_form,
                unknown_template=self._instead,
            )
        try:
            text = form.render(
                messages,
                tools if knows_tools else None,
                bos_token=self._bos,
                eos_token=self._eos,
                now=now,
                variables=_variables(request),
                keep_bos=not self._adds_bos,
            )
        except TemplateError as error:
            raise InvalidParameter(
                "messages", f"are not accepted by the chat template: {error}"
            ) from None
        family = form.family
        return RenderedPrompt(
            text=text,
            stops=family.stops,
            turns=family.turns,
            boundaries=_boundaries(text, self._marks),
            family=family,
            tool_form=tool_form,
            thinks=opened_by(text) is not None
            or (family.reasoning is not None and not _closed(text)),
            unknown_template=bool(tools) and knows_tools and family.tool_form is None,
        )


def begun(request: CompletionRequest) -> str:
    """The beginning of the answer given by the last message, or "". Answers that must be a document
    or a call cannot be continued: they are generated whole."""
    last = request.messages[-1]
    if last.role != "assistant" or last.tool_calls or len(request.messages) < 2:
        return ""
    bound = request.output.kind != "text" or must_call(request)
    return "" if bound else last.content


def _variables(request: CompletionRequest) -> Mapping[str, Any]:
    """Variables for the template. The client's own override those made from reasoning_effort, whose
    names gpt-oss and Qwen 3 established."""
    effort = request.reasoning_effort
    if not effort:
        return request.template_kwargs
    defaults = {"reasoning_effort": effort, "enable_thinking": effort != "none"}
    return {**defaults, **request.template_kwargs}


def _closed(text: str) -> bool:
    """Whether the template wrote an empty reasoning block, because thinking is switched off."""
    return text[-64:].rstrip().endswith("</think>")


def _marks(form: ChatTemplate | LegacyFormat) -> tuple[str, ...]:
    """Texts at the end of a turn or the beginning of the next."""
    if isinstance(form, LegacyFormat):
        marks: tuple[str, ...] = (form.user_name, form.ai_name.rstrip())
    else:
        marks = form.family.stops[:1] + form.family.turns
    return tuple(filter(None, marks))


def _boundaries(text: str, marks: Sequence[str]) -> tuple[int, ...]:
    """The offsets where messages end, found by their marks instead of rendering again."""
    places: list[int] = []
    for mark in marks:
        size = len(mark)
        at = text.find(mark)
        while at >= 0:
            places.append(at)
            at = text.find(mark, at + size)
    return tuple(sorted(set(places)))


def as_dicts(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Messages as Hugging Face templates expect them, with arguments parsed."""
    return list(map(_as_dict, messages, repeat(Decoding())))


def _as_dict(message: Message, decode: Decoding) -> dict[str, Any]:
    out: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name:
        out["name"] = message.name
    if message.tool_calls:
        out["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call.arguments, decode)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        out["tool_call_id"] = message.tool_call_id
    if message.reasoning:
        out["reasoning_content"] = message.reasoning
    return out


def _name_results(messages: list[dict[str, Any]]) -> None:
    """Adds the tool's name to results that have only the call's id."""
    names: dict[str, str] = {}
    for message in messages:
        for call in message.get("tool_calls", ()):
            names[call["id"]] = call["function"]["name"]
        if message["role"] == "tool" and message.get("tool_call_id") in names:
            message.setdefault("name", names[message["tool_call_id"]])


def _arguments(text: str, decode: Decoding) -> Any:
    """The arguments as an object, or the text itself if they are not one."""
    try:
        value = decode(text or "{}")
    except ValueError:
        return text
    return value if isinstance(value, Mapping) else text


def tool_dict(tool: Tool) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": dict(tool.parameters),
        },
    }
