"""Chat templates: renders a conversation as prompt text with a model's Jinja template.

Rendering follows the ``chat_template`` of Hugging Face ``transformers`` (defined in its pages "Chat
templates" and "Template writing"): the variables ``messages``, ``tools``,
``add_generation_prompt``, ``bos_token`` and ``eos_token``; ``raise_exception``, ``strftime_now``,
``tojson`` without HTML escapes, ``break`` and ``continue``, and trimmed blocks. ``pyliteral``, an
addition, writes a JSON value as Python source.

Messages are dicts ``{"role", "content"}``. Assistant messages may have ``"tool_calls": [{"id",
"type": "function", "function": {"name", "arguments": dict}}]``, tool messages ``"tool_call_id"``
and ``"name"``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any

import jinja2
from jinja2 import meta

from .bounds import BUDGET, FEW_STEPS, MAX_SIZE, MAX_STEPS, Budget
from .families import FAMILIES, Family, detect
from .sandbox import TemplateEnvironment, TemplateError

_ENVIRONMENT = TemplateEnvironment()
MAX_SOURCE = 131_072
"""Maximum characters of a template, since compiling is slow; real ones have 20 000 at most."""
_CONSTANT = 10_000  # steps for evaluating a template's constants
SOME = 32  # rendered pieces between two checks of the size


class ChatTemplate:
    """A compiled template, made by :func:`compile`. Thread-safe. If it does not use ``tools``, they
    must be described in the messages."""

    def __init__(
        self, template: jinja2.Template, name: str, family: Family, reads: Set[str]
    ) -> None:
        """`reads` are the variables that the template uses."""
        self._template = template
        self._tells_time = "strftime_now" in reads
        self.name = name
        self.family = family
        self.takes_tools = "tools" in reads

    @property
    def tool_form(self) -> str:
        """Name of the tool-call format: the family's if the template takes tools, else
        "generic"."""
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

        ``bos_token`` and ``eos_token`` default to the family's. Most backends add a BOS to every
        prompt, so one at the very beginning is removed unless ``keep_bos``. ``variables`` are the
        client's (``enable_thinking`` and the like) and never override ours. Without ``now`` the
        template has no ``strftime_now``.

        Raises TemplateRefusal with the text of ``raise_exception``, and TemplateError for all other
        errors."""
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
                context["strftime_now"] = partial(_formatted, now)
            else:
                context.pop("strftime_now", None)
        steps = _steps(messages, tools or ())
        try:
            try:
                text = self._run(context, steps)
            except TypeError:
                # Older templates expect arguments to be strings.
                context["messages"] = _with_text_arguments(messages)
                if context["messages"] is messages:
                    raise
                text = self._run(context, steps)
        except TypeError as error:
            raise TemplateError(f"chat template {self.name}: {error}") from error
        return text[len(bos) :] if bos and not keep_bos and text.startswith(bos) else text

    def _run(self, context: dict[str, Any], steps: int) -> str:
        template = self._template
        token = BUDGET.set(Budget(steps))
        text: list[str] = []
        size = 0
        try:
            # Equals template.new_context(), without its search for further variables.
            pieces = template.root_render_func(
                _ENVIRONMENT.context_class(_ENVIRONMENT, context, template.name, template.blocks)
            )
            # In batches: a long history has thousands of pieces.
            while some := list(islice(pieces, SOME)):
                size += sum(map(len, some))
                if size > MAX_SIZE:
                    raise TemplateError(f"chat template {self.name}: the prompt is too long")
                text += some
                if len(some) < SOME:
                    break
        except (TemplateError, TypeError):
            raise
        except Exception as error:
            # A template is a program: any exception is the template's error, not a defect of the
            # gateway.
            raise TemplateError(f"chat template {self.name}: {error}") from error
        finally:
            BUDGET.reset(token)
        return "".join(text)


def _steps(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any]) -> int:
    """The budget of one rendering, in proportion to the conversation."""
    size = sum(len(text) for m in messages if type(text := m.get("content")) is str)
    steps = FEW_STEPS + 1_000 * len(messages) + 20_000 * len(tools) + (size >> 4)
    return min(steps, MAX_STEPS)


def _formatted(now: datetime, form: str) -> str:
    """``strftime_now(format)`` of a fixed time."""
    # A width in the format ("%1000000d") would make the C library build as much text.
    parts = (form[i : i + 3] for i, char in enumerate(form) if char == "%")
    if len(form) > 256 or any(part[-1].isdigit() for part in parts):
        raise jinja2.exceptions.SecurityError("strftime_now: unsupported format")
    return now.strftime(form)


def _with_text_arguments(messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    if not any(message.get("tool_calls") for message in messages):
        return messages
    return [
        {**message, "tool_calls": [_text_call(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]


def _text_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    function["arguments"] = json.dumps(function.get("arguments", {}), ensure_ascii=False)
    return {**call, "function": function}


def compile(source: str, name: str) -> ChatTemplate:
    """Compiles a template.

    The family is the shipped family of that name, else the one detected from the text, else one
    without stop strings and tool format. Raises TemplateError."""
    if len(source) > MAX_SOURCE:
        raise TemplateError(
            f"chat template {name}: the text has {len(source)} characters; at most {MAX_SOURCE}"
            f" are allowed"
        )
    # Jinja evaluates constant expressions while compiling; large ones are left to the rendering.
    token = BUDGET.set(Budget(_CONSTANT))
    try:
        tree = _ENVIRONMENT.parse(source)
        names = meta.find_undeclared_variables(tree)
        template = _ENVIRONMENT.from_string(source)
        # Each rendering copies the globals. From Jinja's chain of mappings, that takes as long as
        # rendering a short conversation.
        template.globals = dict(template.globals)
    except (jinja2.TemplateError, RecursionError, SyntaxError, ValueError) as error:
        raise TemplateError(f"chat template {name}: {error}") from error
    finally:
        BUDGET.reset(token)
    family = FAMILIES.get(name) or detect(source) or Family(name=name)
    return ChatTemplate(template, name, family, names)
