"""Renders a conversation as prompt text, with a chat template or the reference script's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import Any

import msgspec

from ..core.request import CompletionRequest, Tool
from ..core.task import Task
from ..errors import InvalidParameter
from .constraints import callable_tools, must_call
from .formats import SPECIAL, generic
from .formats.base import ID, CallFormat
from .formats.generic import GENERIC
from .formats.objects import write_calls
from .profile.adapt import (
    MessageRules,
    arranged,
    as_dicts,
    as_texts,
    guided,
    with_objects,
    with_written_calls,
)
from .profile.derive import AnswerSyntax, syntax_of
from .profile.messages import CONVERSATION, EFFORT_VARIABLES, EFFORTS, KEEPING, TOOL
from .profile.neutralise import Neutraliser
from .stages.reasoning import REASONING_TAGS, Tags, opened_by
from .template import TemplateError, TemplateRefusal
from .template.families import Family
from .template.templates import ChatTemplate


class LegacyFormat(msgspec.Struct, frozen=True, kw_only=True):
    """The plain-text prompt of PowerInfer's ``api_like_OAI.py`` (``convert_chat``), byte for byte
    for the roles that it knows. These are the texts before each turn, as in that script."""

    chat_prompt: str = (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant follows the given rules no matter what.\n"
    )
    user_name: str = "\nUSER: "
    ai_name: str = "\nASSISTANT: "
    system_name: str = "\nASSISTANT's RULE: "
    stop: str = "</s>"

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if self.stop else ()

    # As of a template.

    source = ""
    rules = MessageRules(lead=" ")

    @property
    def family(self) -> Family:
        # Models of other formats write the user's turn too.
        turns = filter(None, (self.user_name.rstrip(),))
        return Family(name="plain text", stops=self.stops, turn_stop_texts=tuple(turns))

    def render(self, messages: Sequence[Mapping[str, Any]], *_: Any, **__: Any) -> str:
        """The prompt for ``messages``, of which ``role`` and ``content`` are used."""
        parts = [self.chat_prompt]
        for message in messages:
            content = message["content"]
            match message["role"]:
                case "system":
                    parts += (self.system_name, f"{content}")
                case "user" | "tool":
                    parts += (self.user_name, f"{content}")
                case "assistant":
                    parts += (self.ai_name, f"{content}", self.stop)
        parts.append(self.ai_name.rstrip())
        return "".join(parts)


_PROMPT_END = 128
_ROLE = attrgetter("role")
_CALLS = attrgetter("tool_calls")


class Prompter:
    """Renders chats for one model. Where its backends take messages and render the prompt, a task
    with `backend_templates` takes its place.

    `bos` and `eos` are the backend's, if it reported them. If the backend `adds_bos`, the prompt
    begins without one. `replaces_backend_template` says that `form` is used in place of an unusable
    one. `formats` are the formats of calls that cannot be derived. Unless it `breaks_users`,
    control tokens in users' messages and in tools are kept."""

    def __init__(
        self,
        form: ChatTemplate | LegacyFormat,
        bos: str = "",
        eos: str = "",
        *,
        adds_bos: bool = True,
        replaces_backend_template: bool = False,
        breaks_users: bool = True,
        formats: Sequence[CallFormat] = SPECIAL,
    ) -> None:
        self.form = form
        if isinstance(form, ChatTemplate):
            self.syntax = syntax_of(form, formats)
            self._unknown_template = not self.syntax.is_known
        else:
            self.syntax = AnswerSyntax(stops=form.stops)
            self._unknown_template = replaces_backend_template
        self._tags = self.syntax.reasoning or REASONING_TAGS
        self._openings = tuple(opening for opening, _ in self._tags)
        # How many of the next renderings run in a thread: the first one of an unknown template.
        self.in_thread = 1
        turns = self.syntax.calls.turns if self.syntax.calls is not None else ()
        # Without tags that end with the beginning of a turn: those end every prompt.
        self._closings = tuple(
            end for _, end in self._tags if end and not end.endswith(turns or "\0")
        )
        turn_ends = (*self.syntax.stops[:1], *form.family.turn_stop_texts)
        if isinstance(form, LegacyFormat):
            turn_ends = (form.user_name, form.ai_name.rstrip())
        self._turn_ends = {*filter(None, turn_ends)}
        rules = form.rules
        self._usual = _variables(CompletionRequest(), rules)
        # Whether a conversation without calls may not stay as it is.
        self._arranges = (
            rules.system != "anywhere" or rules.alternates or not rules.user_after_result
        )
        self._render_form = partial(
            form.render, bos_token=bos or None, eos_token=eos or None, keep_bos=not adds_bos
        )
        tokens = (bos, eos, form.family.bos, form.family.eos, *self.syntax.stops)
        source = f"{form.source}\n{_written_by(form)}"
        self._neutraliser = Neutraliser(source, tokens, users=breaks_users)
        self._reasons = bool(self.syntax.reasoning) or any(o in source for o in self._openings)

    def render(self, request: CompletionRequest, now: datetime) -> Task:
        """The task, without its media. Raises InvalidParameter if the template rejects the
        messages.

        If the last message is the beginning of an answer, its text is appended after the generation
        prompt and after any reasoning block that the template opens there."""
        marked = self._neutraliser.mark(request)
        if marked is None:
            return self._begun(request, now)
        prompt = self._begun(marked.request, now)
        text, breaks, boundaries = marked.unmarked(prompt.text, prompt.boundaries)
        return msgspec.structs.replace(
            prompt,
            prompt=text,
            breaks=breaks,
            boundaries=boundaries,
            messages=marked.disarmed(prompt.messages),
            request=request,
        )

    def _begun(self, request: CompletionRequest, now: datetime) -> Task:
        last = request.messages[-1]
        beginning = assistant_prefill(request) if last.role == "assistant" else ""
        if not beginning:
            return self._render(request, now)
        prompt = self._render(msgspec.structs.replace(request, messages=request.messages[:-1]), now)
        lead = _lead(prompt.text, self.form.rules, last.reasoning, self._tags)
        text = prompt.text + lead + beginning
        return msgspec.structs.replace(
            prompt,
            prompt=text,
            thinks=opened_by(text, self._tags) is not None,
            messages=prompt.messages and (*prompt.messages, last),
            request=request,
        )

    def _may_reason(self, text: str) -> bool:
        """Whether the model may reason behind this prompt: not behind an empty block, which
        templates write when thinking is switched off."""
        end = text[-_PROMPT_END:].rstrip()
        if end.endswith(self._openings):
            return True
        return bool(self.syntax.reasoning) and not end.endswith(self._closings)

    def _render(self, request: CompletionRequest, now: datetime) -> Task:
        form, rules, syntax = self.form, self.form.rules, self.syntax
        messages = request.messages
        has_calls = any(map(_CALLS, messages))
        chat = arranged(messages, rules) if has_calls or self._arranges else messages
        own = () if chat is messages else tuple(chat)
        tools: Sequence[dict[str, Any]] = ()
        call_format, unwritten = None, False
        if request.tools or request.tool_choice.mode != "auto":
            # All tools are described, even if one is named, to keep the prefix of a conversation
            # stable.
            tools = [tool_dict(tool) for tool in request.tools]
            if callable_tools(request):
                call_format = syntax.calls or GENERIC
        if call_format is not None or has_calls or "tool" in map(_ROLE, messages):
            unwritten = syntax.calls is None
            if unwritten and not rules.tools:
                guide = generic.instructions(tools) if call_format is not None else ""
                chat = arranged(as_texts(messages, guide), rules)
            elif call_format is not None and not rules.tools:
                # Some models write calls of their own form to tools that their template does not
                # take.
                guide = generic.instructions(tools, form=call_format)
                chat = arranged(guided(messages, guide), rules)
            if has_calls and not rules.calls and (rules.tools or not unwritten):
                chat = with_written_calls(chat, (syntax.calls or GENERIC).shape)
        effort = request.reasoning_effort
        text = self._rendered(as_dicts(chat, rules), tools if rules.tools else (), request, now)
        opened = not rules.end_is_token or text.endswith(rules.opening)
        if not opened and text[-64:].rstrip().endswith(rules.end):
            # Gemma 4 opens no turn for the model after a call with a text.
            text += rules.opening
        starts: set[int] = set()
        for end in self._turn_ends:
            at = len(text)
            while (at := text.rfind(end, 0, at + len(end) - 1)) >= 0:  # twice as fast as find
                starts.add(at)
        return Task(
            prompt=text,
            stop_tokens=syntax.stops,
            stop_strings=request.stop + form.family.turn_stop_texts,
            boundaries=tuple(sorted(starts)),
            guard=self._neutraliser,
            syntax=syntax,
            call_format=call_format,
            messages=own,
            effort=effort and _nearest(effort, rules.efforts),
            thinks=self._reasons and self._may_reason(text),
            unknown_template=self._unknown_template or (unwritten and rules.tools),
            sampling=request.sampling,
            max_tokens=request.max_tokens,
            logprobs=request.logprobs,
            request=request,
        )

    def _rendered(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        request: CompletionRequest,
        now: datetime,
    ) -> str:
        render, variables = self._render_form, self._usual
        if request.reasoning_effort or request.template_kwargs:
            variables = _variables(request, self.form.rules)
        # A client cannot take its history back.
        try:
            try:
                return render(messages, tools, now=now, variables=variables)
            except TemplateRefusal:
                # Without the refusal, the template writes what it knows of the messages: often all.
                text = render(messages, tools, now=now, variables=variables, refuses=False)
                if not _has_all(text, messages):
                    raise
                return text
            except TemplateError:
                whole = with_objects(messages)
                if whole is messages:
                    raise
                return render(whole, tools, now=now, variables=variables)
        except TemplateError as error:
            raise InvalidParameter(
                "messages", f"are not accepted by the chat template: {error}"
            ) from None


def _has_all(text: str, messages: Sequence[Mapping[str, Any]]) -> bool:
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


def _written_by(form: ChatTemplate | LegacyFormat) -> str:
    messages = as_dicts(arranged(CONVERSATION, form.rules), form.rules)
    try:
        return form.render(messages, [TOOL] if form.rules.tools else ())
    except TemplateError:
        return ""


def assistant_prefill(request: CompletionRequest) -> str:
    """The beginning of the answer given by the last message, or "". Answers that must be a document
    or a call are generated whole."""
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
    word = effort or out.get("reasoning_effort")
    if isinstance(word, str):
        out |= dict.fromkeys(EFFORT_VARIABLES, _nearest(word, rules.efforts))
    return out


def _nearest(effort: str, words: Sequence[str]) -> str:
    """The word of the template that is nearest to the client's, rather more effort than less."""
    if effort in words or effort not in EFFORTS or not words:
        return effort
    place = EFFORTS.index(effort)
    return min(reversed(words), key=lambda word: abs(EFFORTS.index(word) - place))


def _lead(prompt: str, rules: MessageRules, reasoning: str, tag_pairs: tuple[Tags, ...]) -> str:
    """What the template writes between the prompt and the text of an answer with this reasoning."""
    opened = opened_by(prompt, tag_pairs)
    if prompt.endswith(rules.opening):  # otherwise thinking is off
        if rules.thought is not None:
            return reasoning.join(rules.thought)
        if rules.lead is not None and (opened is None or opened[1] in rules.lead):
            return rules.lead
    if opened is None:
        return ""
    return f"\n{opened[1]}\n\n" if prompt.endswith("\n") else opened[1]


def tool_dict(tool: Tool) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": dict(tool.parameters),
        },
    }


# What a template takes and what its model writes, in words.

Line = tuple[str, str]  # label and text

_SYSTEM = {
    "anywhere": "anywhere",
    "first": "first only; later ones join a neighbour",
    "none": "none; they join a neighbour",
}
WIDTH = 200  # characters of a call


def profile_of(prompter: Prompter) -> tuple[Line, ...]:
    form = prompter.form
    if isinstance(form, LegacyFormat):
        return (("format", "plain text"),)
    return describe(form.rules, prompter.syntax)


def describe(rules: MessageRules, syntax: AnswerSyntax) -> tuple[Line, ...]:
    """The lines about a template: system messages, calls, reasoning, switches and end tokens."""
    pairs = (f"{opening or 'the prompt'} … {closing}" for opening, closing in syntax.reasoning)
    switches = ["thinking on and off"] if rules.thinks else []
    if rules.efforts:
        switches.append(f"effort {', '.join(rules.efforts)}")
    lines = [
        ("system messages", _SYSTEM[rules.system]),
        ("turns", "user and assistant in turn; others are joined" if rules.alternates else ""),
        ("contents", "lists of parts" if rules.content == "parts" else ""),
        ("calls", _calls(rules, syntax)),
        ("reasoning", " ".join(", ".join(pairs).split())),
        ("switches", "; ".join(switches)),
        ("ends", ", ".join(syntax.stops) or "the model's own end token"),
    ]
    return tuple((label, text) for label, text in lines if text)


def _calls(rules: MessageRules, syntax: AnswerSyntax) -> str:
    if syntax.calls is None:
        return "JSON as slotproxy describes it in the messages"
    shape = syntax.calls.shape
    call = write_calls(shape, ("NAME", {"KEY": "…"})).replace(ID, "ID")
    parts = [" ".join(call.split())[:WIDTH]]
    single = rules.calls_per_turn == "one" or not shape.parallel
    parts.append("one in a turn" if single else "several in a turn")
    if rules.call_ids == "nine":
        parts.append("ids of nine characters")
    if not rules.tools:
        parts.append("tools are described in the messages")
    return "; ".join(parts)
