"""Prompt templates of the dialogues: where instructions, documents and the question stand.

A template of templates/dialogues/<folder>/<name>.jinja says what stands before a conversation: its
text becomes the system message, with the documents in it (`context`), so that the question comes
last and the cached prefix lasts from turn to turn. One that speaks of the question itself (`input`
or `question`, as Langchain-Chatchat's own templates do) becomes the last message instead, in the
question's place.

Variables: `input` and `question`, the same text; `context`, the documents; `tools`, names and
descriptions, and `tool_names`. Rendered in the sandbox of chat templates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jinja2
from jinja2 import meta
from msgspec import Struct

from ..core.invalid import Invalid
from ..core.request import Message, Tool
from .bounds import BUDGET, MAX_SIZE, Budget
from .sandbox import TemplateEnvironment
from .templates import TemplateError

_ENVIRONMENT = TemplateEnvironment()
QUESTION = frozenset({"input", "question"})


class Layout(Struct, frozen=True):
    """A template. `asks`: it speaks of the question."""

    source: str
    template: jinja2.Template
    asks: bool


class Layouts:
    """`sources` are texts of templates by folder and name. Raises TemplateError for one that does
    not compile."""

    def __init__(self, sources: Mapping[str, Mapping[str, str]]) -> None:
        self._layouts = {
            (folder, name): _compiled(source, f"{folder}/{name}")
            for folder, named in sources.items()
            for name, source in named.items()
        }

    def names(self, folder: str) -> tuple[str, ...]:
        """Names in a folder, `default` first."""
        names = sorted(name for one, name in self._layouts if one == folder)
        return tuple(sorted(names, key=lambda name: name != "default"))

    def source(self, folder: str, name: str) -> str:
        """The text of a template. Raises Invalid for a name that is none."""
        return self._layout(folder, name).source

    def asks(self, folder: str, name: str) -> bool:
        """Whether a template speaks of the question itself. Raises Invalid."""
        return self._layout(folder, name).asks

    def lay(
        self,
        folder: str,
        name: str,
        messages: Sequence[Message],
        context: str = "",
        tools: Sequence[Tool] = (),
    ) -> tuple[Message, ...]:
        """The conversation, whose last message is the question, as it is sent to the model. What
        its own system message said stands after the template's text.

        Raises Invalid for a name that is none, and for a template that fails."""
        layout = self._layout(folder, name)
        *before, last = messages
        text = _rendered(layout, last.content, context, tools)
        if layout.asks:
            return (*before, Message("user", text, media=last.media))
        if before and before[0].role == "system":
            text = f"{text}\n\n{before.pop(0).content}"
        return (Message("system", text), *before, last) if text else (*before, last)

    def _layout(self, folder: str, name: str) -> Layout:
        found = self._layouts.get((folder, name))
        if found is None:
            names = ", ".join(self.names(folder))
            raise Invalid("prompt_name", f"is none of the templates of {folder}: {names}")
        return found


def _compiled(source: str, name: str) -> Layout:
    try:
        asks = bool(meta.find_undeclared_variables(_ENVIRONMENT.parse(source)) & QUESTION)
        return Layout(source, _ENVIRONMENT.from_string(source), asks)
    except (jinja2.TemplateError, RecursionError, ValueError) as error:
        raise TemplateError(f"prompt template {name}: {error}") from error


def _rendered(layout: Layout, question: str, context: str, tools: Sequence[Tool]) -> str:
    variables = {
        "input": question,
        "question": question,
        "context": context,
        "tools": "\n".join(f"{tool.name}: {tool.description}" for tool in tools),
        "tool_names": ", ".join(tool.name for tool in tools),
    }
    token = BUDGET.set(Budget())
    try:
        text = layout.template.render(variables)
    except Exception as error:
        # A template is a program: whatever it fails with is its fault and no crash of ours.
        raise Invalid("prompt_name", f"names a template that fails: {error}"[:300]) from error
    finally:
        BUDGET.reset(token)
    if len(text) > MAX_SIZE:
        raise Invalid("prompt_name", "names a template that makes too long a prompt")
    return text.strip() if not layout.asks else text
