"""Chat templates: renders a conversation as prompt text with a model's Jinja template.

Rendering follows the ``chat_template`` of Hugging Face ``transformers`` (its pages "Chat templates"
and "Template writing"). As llama-server does, it leaves ``tools`` undefined if there are none and
gives today's ``date_string`` and ``datetime``. ``pyliteral``, an addition, writes a JSON value as
Python source.

Messages are dicts ``{"role", "content"}``. Assistant messages may have ``"tool_calls": [{"id",
"type": "function", "function": {"name", "arguments": dict}}]``, tool messages ``"tool_call_id"``
and ``"name"``. What a template takes of them are its `rules`.
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
from msgspec import Struct
from msgspec.structs import replace

from ..profile.adapt import ANY, MessageRules
from ..profile.messages import message_rules
from . import TemplateError
from .bounds import BUDGET, FEW_STEPS, MAX_SIZE, MAX_STEPS, Budget
from .families import FAMILIES, Family, detect
from .sandbox import TemplateEnvironment

_ENVIRONMENT = TemplateEnvironment()
MAX_SOURCE = 131_072  # characters of a template; real ones have 20 000 at most
_CONSTANT = 10_000  # steps for evaluating a template's constants
PROBING = 100_000  # steps for learning a template's rules; real ones need 13 000 at most
SOME = 32  # rendered pieces between two checks of the size
_TODAY = {"date_string": "%d %b %Y", "datetime": "%b %d %Y"}  # as in llama-server
_RARE = frozenset({"functions", "strftime_now", *_TODAY})  # variables that few templates read
_SOME_DAY = datetime(2026, 1, 1)
# StepFun's models think without end if there is white space around messages: llama-server removes
# it.
_TRIMMED = "You have access to the following functions in JSONSchema format"


class ChatTemplate(Struct, eq=False):
    """A template, compiled by :func:`compile`. It reads these `rare` variables. Thread-safe."""

    template: jinja2.Template
    source: str
    name: str
    family: Family
    rare: Set[str]
    rules: MessageRules = ANY

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
        refuses: bool = True,
        budget: Budget | None = None,
    ) -> str:
        """The prompt text.

        Most backends add a BOS to every prompt, so one at the very beginning is removed unless
        ``keep_bos``. ``variables`` are the client's (``enable_thinking`` and the like) and never
        override ours. Unless it ``refuses``, ``raise_exception`` does nothing. Without a
        ``budget``, that is in proportion to the conversation.

        Raises TemplateRefusal with the text of ``raise_exception``, and TemplateError for all other
        errors."""
        bos = self.family.bos if bos_token is None else bos_token
        context = {
            **(variables or {}),
            **self.template.globals,
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": bos,
            "eos_token": self.family.eos if eos_token is None else eos_token,
        }
        if tools:
            context["tools"] = tools
        elif "tools" in context:
            del context["tools"]
        if self.rare:
            if "functions" in self.rare:
                context["functions"] = _functions(tools or ())
            context.pop("strftime_now", None)
            if now is not None:
                for name, form in _TODAY.items():
                    if name in self.rare:
                        context.setdefault(name, now.strftime(form))
                context["strftime_now"] = partial(_formatted, now)
        if not refuses:
            context["raise_exception"] = lambda *_: ""
        budget = budget or Budget(FEW_STEPS, _more_steps)
        budget.values = context
        template, token = self.template, BUDGET.set(budget)
        written, size = [], 0
        try:
            # Equals template.new_context(), without its search for further variables.
            pieces = template.root_render_func(
                _ENVIRONMENT.context_class(_ENVIRONMENT, context, template.name, template.blocks)
            )
            # In batches: a long history has thousands of pieces.
            for piece in pieces:
                written.append(piece + "".join(islice(pieces, SOME)))
                size += len(written[-1])
                if size > MAX_SIZE:
                    raise TemplateError(f"chat template {self.name}: the prompt is too long")
        except TemplateError:
            raise
        except Exception as error:
            # A template is a program: any exception is its own error.
            raise TemplateError(f"chat template {self.name}: {error}") from error
        finally:
            BUDGET.reset(token)
        text = "".join(written)
        return text if keep_bos else text.removeprefix(bos)


def _more_steps(context: Mapping[str, Any]) -> int:
    """The budget of one rendering beyond FEW_STEPS, in proportion to the conversation."""
    messages, size = context["messages"], 0
    for message in messages:
        content = message.get("content")
        if type(content) is str:
            size += len(content)
    steps = 1_000 * len(messages) + 20_000 * len(context.get("tools", ())) + (size >> 4)
    return min(steps, MAX_STEPS - FEW_STEPS)


def _formatted(now: datetime, form: str) -> str:
    # A width in the format ("%1000000d") would make the C library build as much text.
    parts = (form[i : i + 3] for i, char in enumerate(form) if char == "%")
    if len(form) > 256 or any(part[-1].isdigit() for part in parts):
        raise jinja2.exceptions.SecurityError("strftime_now: unsupported format")
    return now.strftime(form)


def _functions(tools: Sequence[Mapping[str, Any]]) -> str:
    functions = [tool["function"] for tool in tools]
    return json.dumps(functions, ensure_ascii=False, indent=4) if functions else ""


def compile(source: str, name: str) -> ChatTemplate:
    """Compiles a template, and renders it some thirty times to learn its rules.

    The family is the shipped one of that name, else the one detected from the text, else one with
    the end of turns that the template writes. Raises TemplateError."""
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
        # Each rendering copies the globals; from Jinja's chain of mappings, that takes long.
        template.globals = dict(template.globals)
    except (jinja2.TemplateError, RecursionError, SyntaxError, ValueError) as error:
        raise TemplateError(f"chat template {name}: {error}") from error
    finally:
        BUDGET.reset(token)
    family = FAMILIES.get(name) or detect(source)
    made = ChatTemplate(template, source, name, family or Family(name=name), names & _RARE)
    budget = Budget(PROBING)
    rules = message_rules(partial(made.render, now=_SOME_DAY, budget=budget), names)
    made.rules = rules = replace(rules, trims=_TRIMMED in source)
    if family is None and rules.end:
        stops, turns = ((rules.end,), ()) if rules.end_is_token else ((), (rules.end,))
        made.family = Family(name=name, stops=stops, turn_stop_texts=turns)
    return made
