"""Renders a conversation as prompt text, with a chat template or the reference script's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Struct

from ..core.request import CompletionRequest, Message, Tool, ToolCall
from ..errors import InvalidParameter
from .constraints import callable_tools, must_call
from .families import Family
from .formats import FORMS, CallShape, generic
from .legacy import LegacyFormat
from .profile.adapt import (
    arranged,
    as_dicts,
    name_results,
    with_objects,
    with_written_calls,
)
from .profile.messages import EFFORT_VARIABLES, EFFORTS, KEEPING
from .profile.rules import MessageRules
from .reasoning import opened_by
from .sandbox import TemplateError, TemplateRefusal
from .templates import ChatTemplate

_LEGACY = Family(name="legacy")
_LEGACY_RULES = MessageRules()
_ROLE = attrgetter("role")
_CALLS = attrgetter("tool_calls")


class RenderedPrompt(Struct, frozen=True, kw_only=True):
    """`stops` are the family's end tokens, for the backend; `turns` are texts that begin another
    turn, for the gateway to match. `boundaries` are ascending offsets of the ends of turns.
    `tool_form` names the tool-call format described to the model, "" without tools. `thinks` is set
    if the model may reason before it answers. `messages` are those of the request as the template
    takes them, () if that is as they are; `effort` is the request's in a word that it takes. With
    `backend_templates` nothing was rendered: the backend takes messages. `unknown_template` is set
    if the model's own template is missing or its tool format is unknown."""

    text: str
    stops: tuple[str, ...] = ()
    turns: tuple[str, ...] = ()
    boundaries: tuple[int, ...] = ()
    family: Family = _LEGACY
    tool_form: str = ""
    thinks: bool = False
    messages: tuple[Message, ...] = ()
    effort: str = ""
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
        self._tool_form = form.tool_form if isinstance(form, ChatTemplate) else "generic"
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
        if not beginning:
            return self._render(request, now)
        *messages, last = request.messages
        prompt = self._render(msgspec.structs.replace(request, messages=tuple(messages)), now)
        form = self.form
        if isinstance(form, ChatTemplate):
            lead = _lead(prompt.text, form.rules, last.reasoning)
        else:
            lead = " "
        return msgspec.structs.replace(
            prompt,
            text=prompt.text + lead + beginning,
            thinks=False,
            messages=prompt.messages and (*prompt.messages, last),
        )

    def _render(self, request: CompletionRequest, now: datetime) -> RenderedPrompt:
        form = self.form
        rules = form.rules if isinstance(form, ChatTemplate) else _LEGACY_RULES
        chat = arranged(request.messages, rules)
        own = () if chat is request.messages else tuple(chat)
        tools = [tool_dict(tool) for tool in request.tools]
        tool_form = ""
        if callable_tools(request):
            # All tools are described, even if one is named, to keep the prefix of a conversation
            # stable.
            tool_form = self._tool_form
        knows_tools = self._knows_tools
        if not knows_tools and (tool_form or any(map(_CALLS, chat)) or "tool" in map(_ROLE, chat)):
            dicts = as_dicts(request.messages)
            name_results(dicts)
            written = generic.rewrite(dicts, tools if tool_form else ())
            chat = [Message(role=m["role"], content=m["content"]) for m in written]
            chat = arranged(chat, rules)
        elif not rules.calls and any(map(_CALLS, chat)):
            chat = with_written_calls(chat, partial(_written, FORMS[self._tool_form].shape))
        messages = as_dicts(chat, rules)
        if isinstance(form, LegacyFormat):
            text = form.render(messages)
            return RenderedPrompt(
                text=text,
                stops=form.stops,
                boundaries=_boundaries(text, self._marks),
                tool_form=tool_form,
                unknown_template=self._instead,
            )
        text = self._rendered(form, messages, tools if knows_tools else (), request, now)
        if rules.opening and rules.end_is_token and text[-64:].rstrip().endswith(rules.end):
            # Gemma 4 opens no turn for the model after a call with a text.
            text += rules.opening
        family = form.family
        return RenderedPrompt(
            text=text,
            stops=family.stops,
            turns=family.turns,
            boundaries=_boundaries(text, self._marks),
            family=family,
            tool_form=tool_form,
            messages=own,
            effort=_nearest(request.reasoning_effort, rules.efforts),
            thinks=opened_by(text) is not None
            or (family.reasoning is not None and not _closed(text)),
            unknown_template=bool(tool_form) and knows_tools and family.tool_form is None,
        )

    def _rendered(
        self,
        form: ChatTemplate,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        request: CompletionRequest,
        now: datetime,
    ) -> str:
        render = partial(
            form.render,
            tools=tools,
            bos_token=self._bos,
            eos_token=self._eos,
            now=now,
            variables=_variables(request, form.rules),
            keep_bos=not self._adds_bos,
        )
        # A client cannot take its history back.
        try:
            try:
                return render(messages)
            except TemplateRefusal:
                # Without the refusal, the template writes what it knows of the messages: often all.
                text = render(messages, refuses=False)
                if not _has_all(text, messages):
                    raise
                return text
            except TemplateError:
                whole = with_objects(messages)
                if whole is messages:
                    raise
                return render(whole)
        except TemplateError as error:
            raise InvalidParameter(
                "messages", f"are not accepted by the chat template: {error}"
            ) from None


def _has_all(text: str, messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a prompt has the texts of the messages, in their order."""
    at = 0
    for message in messages:
        content = message["content"]
        parts = [content] if isinstance(content, str) else [p.get("text", "") for p in content]
        for part in map(str.strip, parts):
            at = text.find(part, at)
            if at < 0:
                return False
            at += len(part)
    return True


def begun(request: CompletionRequest) -> str:
    """The beginning of the answer given by the last message, or "". Answers that must be a document
    or a call cannot be continued: they are generated whole."""
    last = request.messages[-1]
    if last.role != "assistant" or last.tool_calls or len(request.messages) < 2:
        return ""
    bound = request.output.kind != "text" or must_call(request)
    return "" if bound else last.content


def _variables(request: CompletionRequest, rules: MessageRules) -> Mapping[str, Any]:
    """Variables for the template, as llama-server gives them: the client's own, thinking unless it
    is switched off, and the effort in a word that the template takes."""
    effort, own = request.reasoning_effort, request.template_kwargs
    out: dict[str, Any] = {**KEEPING, "enable_thinking": rules.thinks or bool(effort)}
    if not effort and not own:
        return out
    if own.get("preserve_reasoning") is False:
        out |= {name: not value for name, value in KEEPING.items()}
    out |= own
    if effort == "none":
        out["enable_thinking"] = False
        out.pop("reasoning_effort", None)
    out.setdefault("thinking", out["enable_thinking"])
    if effort == "none":
        return out
    asked = effort or out.get("reasoning_effort")
    if isinstance(asked, str):
        out |= dict.fromkeys(EFFORT_VARIABLES, _nearest(asked, rules.efforts))
    return out


def _nearest(effort: str, words: Sequence[str]) -> str:
    """The word of the template that is nearest to the client's, rather more effort than less."""
    if effort in words or effort not in EFFORTS or not words:
        return effort
    place = EFFORTS.index(effort)
    return min(reversed(words), key=lambda word: abs(EFFORTS.index(word) - place))


def _written(shape: CallShape, calls: Sequence[ToolCall]) -> str:
    """Calls as a model writes them."""
    texts = (
        f"{shape.before_name}{call.name}{shape.after_name}{call.arguments or '{}'}{shape.suffix}"
        for call in calls
    )
    return shape.prefix + shape.separator.join(texts) + shape.end


def _lead(prompt: str, rules: MessageRules, reasoning: str) -> str:
    """What the template writes between the prompt and the text of an answer with this reasoning."""
    opened = opened_by(prompt)
    if prompt.endswith(rules.opening):  # otherwise thinking is off
        if rules.thought is not None:
            return reasoning.join(rules.thought)
        if rules.lead is not None and (opened is None or opened[1] in rules.lead):
            return rules.lead
    if opened is None:
        return ""
    return f"\n{opened[1]}\n\n" if prompt.endswith("\n") else opened[1]


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


def tool_dict(tool: Tool) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": dict(tool.parameters),
        },
    }
