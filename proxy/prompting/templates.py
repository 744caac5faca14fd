"""Chat templates: a Jinja text and a conversation become the prompt of a model.

Rendered as Hugging Face ``transformers`` renders the ``chat_template`` of a tokenizer (the source
of the format: its documents "Chat templates" and "Template writing"): the variables ``messages``,
``tools``, ``add_generation_prompt``, ``bos_token``, ``eos_token``; ``raise_exception``,
``strftime_now``, ``tojson`` without HTML escapes, ``break`` and ``continue``, blocks trimmed. In
addition ``pyliteral`` writes a JSON value as Python source.

Messages are dicts ``{"role", "content"}``; an assistant's may hold
``"tool_calls": [{"id", "type": "function", "function": {"name", "arguments": dict}}]``, a tool's
``"tool_call_id"`` and ``"name"``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from datetime import datetime
from itertools import islice
from typing import Any

import jinja2
from jinja2 import meta

from .bounds import BUDGET, FEW_STEPS, MAX_SIZE, MAX_STEPS, Budget
from .families import FAMILIES, Family, detect
from .sandbox import Refusal, TemplateEnvironment

_ENVIRONMENT = TemplateEnvironment()
MAX_SOURCE = 131_072
"""Characters of a template's text: real ones have 20 000 at most, and compiling takes long."""
_CONSTANT = 10_000  # steps to make a template's constants with
SOME = 32  # pieces of a rendering between two looks at its size


class TemplateError(ValueError):
    """A template that does not compile, fails while it renders, or does too much work."""


class TemplateRefusal(TemplateError):
    """``raise_exception`` in the template: these messages are not for it; the text says why."""


class ChatTemplate:
    """A compiled template. Safe to share between threads; made by :func:`compile`."""

    __slots__ = ("_tells_time", "_template", "family", "name", "takes_tools")

    name: str
    family: Family
    takes_tools: bool
    """Whether the template itself reads ``tools``; else they must be said in the messages."""

    def __init__(
        self, template: jinja2.Template, name: str, family: Family, reads: Set[str]
    ) -> None:
        """`reads` are the names that the template looks up."""
        self._template = template
        self._tells_time = "strftime_now" in reads
        self.name = name
        self.family = family
        self.takes_tools = "tools" in reads

    @property
    def tool_form(self) -> str:
        """Name of the tool-call form to use: the family's if the template takes tools."""
        return (self.family.tool_form if self.takes_tools else None) or "generic"

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = True,
        bos_token: str | None = None,
        eos_token: str | None = None,
        now: datetime | None = None,
        variables: Mapping[str, Any] | None = None,
        keep_bos: bool = False,
    ) -> str:
        """The prompt text.

        ``bos_token`` and ``eos_token`` default to the family's. Most backends put a BOS in front
        of every prompt themselves, so one at the very beginning is left out unless ``keep_bos``.
        ``variables`` are a client's own (``enable_thinking`` and the like) and never hide ours.
        Without ``now`` the template has no ``strftime_now``.

        Raises TemplateRefusal with the text of ``raise_exception``, TemplateError for all else.
        """
        bos = self.family.bos if bos_token is None else bos_token
        context = {
            **(variables or {}),
            **self._template.globals,
            "messages": messages,
            "tools": tools or None,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": bos,
            "eos_token": self.family.eos if eos_token is None else eos_token,
        }
        if self._tells_time:
            if now is not None:
                context["strftime_now"] = _Clock(now)
            else:
                context.pop("strftime_now", None)
        steps = _steps(messages, tools or ())
        try:
            text = self._run(context, steps)
        except TypeError as error:
            # Templates written before arguments were objects join them to text; they get text.
            context["messages"] = _with_text_arguments(messages)
            if context["messages"] is messages:
                raise TemplateError(f"chat template {self.name}: {error}") from error
            try:
                text = self._run(context, steps)
            except TypeError as again:
                raise TemplateError(f"chat template {self.name}: {again}") from again
        return text[len(bos) :] if bos and not keep_bos and text.startswith(bos) else text

    def _run(self, context: dict[str, Any], steps: int) -> str:
        template = self._template
        token = BUDGET.set(Budget(steps))
        text: list[str] = []
        size = 0
        try:
            # As its new_context would make it, which looks for more to put into it.
            pieces = template.root_render_func(
                _ENVIRONMENT.context_class(_ENVIRONMENT, context, template.name, template.blocks)
            )
            # Some together: a long history comes in thousands.
            while some := list(islice(pieces, SOME)):
                size += sum(map(len, some))
                if size > MAX_SIZE:
                    raise TemplateError(f"chat template {self.name}: the prompt is too long")
                text += some
                if len(some) < SOME:
                    break
        except Refusal as refusal:
            raise TemplateRefusal(str(refusal)) from None
        except (TemplateError, TypeError):
            raise
        except Exception as error:
            # A template is a program: whatever it fails with is its fault and no crash of ours.
            raise TemplateError(f"chat template {self.name}: {error}") from error
        finally:
            BUDGET.reset(token)
        return "".join(text)


def _steps(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any]) -> int:
    """What a rendering may cost: a short conversation is no reason to work for long."""
    size = sum(len(said) for one in messages if type(said := one.get("content")) is str)
    steps = FEW_STEPS + 1_000 * len(messages) + 20_000 * len(tools) + (size >> 4)
    return min(steps, MAX_STEPS)


class _Clock:
    """``strftime_now(format)`` at the moment that was handed in."""

    __slots__ = ("_now",)

    def __init__(self, now: datetime) -> None:
        self._now = now

    def __call__(self, form: str) -> str:
        # Widths in the format ("%1000000d") would make the C library build as much text.
        if len(form) > 256 or any("%" in part and part[-1:].isdigit() for part in _cut(form)):
            raise jinja2.exceptions.SecurityError("strftime_now: not such a format")
        return self._now.strftime(form)


def _cut(form: str) -> list[str]:
    return [form[i : i + 3] for i, char in enumerate(form) if char == "%"]


def _with_text_arguments(messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    changed = [
        {**message, "tool_calls": [_text_call(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]
    return changed if any(message.get("tool_calls") for message in messages) else messages


def _text_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    function["arguments"] = json.dumps(function.get("arguments", {}), ensure_ascii=False)
    return {**call, "function": function}


def compile(source: str, name: str, family: Family | None = None) -> ChatTemplate:
    """Compile a template once, to be rendered often.

    The family is the given one, else the shipped one of that name, else the one the text shows
    by its marks, else one without stop strings and tool form. Raises TemplateError.
    """
    if len(source) > MAX_SOURCE:
        raise TemplateError(
            f"chat template {name}: the text has {len(source)} characters, {MAX_SOURCE} may be"
        )
    # Jinja makes at once what is constant, and keeps it: what is large waits for a rendering.
    token = BUDGET.set(Budget(_CONSTANT))
    try:
        tree = _ENVIRONMENT.parse(source)
        names = meta.find_undeclared_variables(tree)
        template = _ENVIRONMENT.from_string(source)
        # Each rendering copies them, and from jinja's own mapping of mappings that takes as long
        # as a short conversation.
        template.globals = dict(template.globals)
    except (jinja2.TemplateError, RecursionError, SyntaxError, ValueError) as error:
        raise TemplateError(f"chat template {name}: {error}") from error
    finally:
        BUDGET.reset(token)
    if family is None:
        family = FAMILIES.get(name) or detect(source) or Family(name=name)
    return ChatTemplate(template, name, family, names)
