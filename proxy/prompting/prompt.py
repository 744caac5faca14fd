"""A conversation becomes prompt text, by a template or by the reference's plain form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import repeat
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Struct

from ..core.decoding import Decoding
from ..core.invalid import Invalid
from ..core.request import CompletionRequest, Message, Tool
from .bind import callable_tools, must_call
from .families import Family
from .legacy import LegacyFormat
from .reasoning import opened_by
from .templates import ChatTemplate, TemplateError
from .toolcalls import generic

_LEGACY = Family(name="legacy")
_ROLE = attrgetter("role")
_CALLS = attrgetter("tool_calls")


class Prompt(Struct, frozen=True):
    """`stops` are end marks of the family, single tokens, for the backend; `turns` are texts that
    begin somebody else's turn, to be matched by us. `boundaries` are ascending offsets where a
    turn ends. `tool_form` names the form in which the model was told to write calls, "" where it
    has no tools. `thinks`: it may write thoughts before its answer. `native`: nothing was rendered,
    the backend takes the messages. `foreign`: the model's own template tells of tools, or of
    anything, in a way that we do not know."""

    text: str
    stops: tuple[str, ...] = ()
    turns: tuple[str, ...] = ()
    boundaries: tuple[int, ...] = ()
    family: Family = _LEGACY
    tool_form: str = ""
    thinks: bool = False
    native: bool = False
    foreign: bool = False


class Unrendered:
    """Stands for a Prompter where the backend takes messages and makes the prompt itself."""

    name = "native"

    def render(self, request: CompletionRequest, now: datetime) -> Prompt:
        return Prompt("", native=True)


class Prompter:
    """Renders chats for one model. `bos` and `eos` are the backend's own, where it told them;
    `adds_bos`: the backend puts its BOS in front of a prompt, so the prompt begins without one;
    `instead` of the backend's own template, which is none, the form is used."""

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
        # Whether it is known to take milliseconds; None where nothing has been rendered yet.
        self.quick: bool | None = True if isinstance(form, LegacyFormat) else None
        self._knows_tools = isinstance(form, ChatTemplate) and form.takes_tools
        self._marks = _marks(form)
        self._instead = instead
        self._bos = bos or None
        self._adds_bos = adds_bos
        self._eos = eos or None

    @property
    def name(self) -> str:
        return self.form.name if isinstance(self.form, ChatTemplate) else "legacy"

    def render(self, request: CompletionRequest, now: datetime) -> Prompt:
        """Raises Invalid where the template refuses the messages.

        An answer that the client has begun goes on where it ends: its text stands behind the prompt
        of an answer, past the thoughts that a template may open there."""
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

    def _render(self, request: CompletionRequest, now: datetime) -> Prompt:
        form, said = self.form, request.messages
        messages = as_dicts(said)
        has_results = "tool" in map(_ROLE, said)
        if has_results:
            _name_results(messages)
        tools: list[dict[str, Any]] = []
        tool_form = ""
        if callable_tools(request):
            # All are told, also where one is named: the prefix of a conversation stays the same.
            tools = [tool_dict(t) for t in request.tools]
            tool_form = form.tool_form if isinstance(form, ChatTemplate) else "generic"
        knows_tools = self._knows_tools
        if not knows_tools and (tools or has_results or any(map(_CALLS, said))):
            messages = generic.rewrite(messages, tools)
        if isinstance(form, LegacyFormat):
            text = form.render(messages)
            return Prompt(
                text,
                form.stops,
                (),
                _boundaries(text, self._marks),
                tool_form=tool_form,
                foreign=self._instead,
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
            raise Invalid("messages", f"do not fit the chat template: {error}") from None
        family = form.family
        return Prompt(
            text,
            family.stops,
            family.turns,
            _boundaries(text, self._marks),
            family,
            tool_form,
            thinks=opened_by(text) is not None
            or (family.reasoning is not None and not _closed(text)),
            foreign=bool(tools) and knows_tools and family.tool_form is None,
        )


def begun(request: CompletionRequest) -> str:
    """The answer that the last message begins, "" where it begins none. What must be a document or
    a call is made whole, and not from its middle."""
    last = request.messages[-1]
    if last.role != "assistant" or last.tool_calls or len(request.messages) < 2:
        return ""
    bound = request.output.kind != "text" or must_call(request)
    return "" if bound else last.content


def _variables(request: CompletionRequest) -> Mapping[str, Any]:
    """What a template may ask for besides the messages: names that gpt-oss and Qwen 3 made common,
    under the client's own."""
    effort = request.reasoning_effort
    if not effort:
        return request.template_kwargs
    told = {"reasoning_effort": effort, "enable_thinking": effort != "none"}
    return {**told, **request.template_kwargs}


def _closed(text: str) -> bool:
    """Whether the template has written the thoughts itself, empty: it was told not to think."""
    return text[-64:].rstrip().endswith("</think>")


def _marks(form: ChatTemplate | LegacyFormat) -> tuple[str, ...]:
    """The marks of a turn's end or of the next one's beginning."""
    if isinstance(form, LegacyFormat):
        marks: tuple[str, ...] = (form.user_name, form.ai_name.rstrip())
    else:
        marks = form.family.stops[:1] + form.family.turns
    return tuple(filter(None, marks))


def _boundaries(text: str, marks: Sequence[str]) -> tuple[int, ...]:
    """Where a message ends: before one of the marks, found without rendering twice."""
    places: list[int] = []
    for mark in marks:
        size = len(mark)
        at = text.find(mark)
        while at >= 0:
            places.append(at)
            at = text.find(mark, at + size)
    return tuple(sorted(set(places)))


def as_dicts(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Messages as Hugging Face templates expect them: arguments as an object."""
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
    """Results get the name of the tool that was called, where only the call's id was said."""
    names: dict[str, str] = {}
    for message in messages:
        for call in message.get("tool_calls", ()):
            names[call["id"]] = call["function"]["name"]
        if message["role"] == "tool" and message.get("tool_call_id") in names:
            message.setdefault("name", names[message["tool_call_id"]])


def _arguments(text: str, decode: Decoding) -> Any:
    """An object, or the text where it is none."""
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
