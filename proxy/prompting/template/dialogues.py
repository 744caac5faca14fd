"""Prompt templates of the dialogues: they place instructions, documents and the question.

The text of templates/dialogues/<folder>/<name>.jinja becomes the system message, with the documents
(`context`). The question stays last, so the cached prefix can be reused in the next turn. A
template that uses `input` or `question`, as Langchain-Chatchat's own do, becomes the last message
in place of the question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import jinja2
from jinja2 import meta
from msgspec import Struct

from ...core.request import Message, Tool
from ...errors import InvalidParameter
from . import TemplateError
from .bounds import BUDGET, MAX_SIZE, Budget
from .sandbox import TemplateEnvironment

_ENVIRONMENT = TemplateEnvironment()
QUESTION = frozenset({"input", "question"})


class Layout(Struct, frozen=True):
    """A template; `asks` if it uses the question, `cites` if it uses the documents."""

    source: str
    asks: bool
    cites: bool


class Layouts:
    """`sources` maps folders to names to template texts. Raises TemplateError if one does not
    compile."""

    def __init__(self, sources: Mapping[str, Mapping[str, str]]) -> None:
        self._layouts = {
            (folder, name): _checked(source, f"{folder}/{name}")
            for folder, named in sources.items()
            for name, source in named.items()
        }

    def names(self, folder: str) -> tuple[str, ...]:
        names = (name for parent, name in self._layouts if parent == folder)
        return tuple(sorted(names, key=lambda name: (name != "default", name)))

    def render(
        self,
        folder: str,
        name: str,
        messages: Sequence[Message],
        context: str = "",
        tools: Sequence[Tool] = (),
    ) -> tuple[Message, ...]:
        """The conversation to send to the model. The last of `messages` is the question. The text
        of an existing system message follows the template's."""
        layout = self.layout(folder, name)
        *before, last = messages
        text = _rendered(layout, last.content, context, tools)
        cites = layout.cites and bool(context)
        if layout.asks:
            return (*before, Message(role="user", content=text, media=last.media, cites=cites))
        if before and before[0].role == "system":
            text = f"{text}\n\n{before.pop(0).content}"
        if not text:
            return (*before, last)
        return (Message(role="system", content=text, cites=cites), *before, last)

    def layout(self, folder: str, name: str) -> Layout:
        try:
            return self._layouts[folder, name]
        except KeyError:
            available = ", ".join(self.names(folder))
            raise InvalidParameter(
                "prompt_name", f"is not a template of {folder}; available: {available}"
            ) from None


@lru_cache(maxsize=64)  # every app of a process has the same ones
def _checked(source: str, name: str) -> Layout:
    try:
        reads = meta.find_undeclared_variables(_ENVIRONMENT.parse(source))
        return Layout(source, bool(reads & QUESTION), "context" in reads)
    except (jinja2.TemplateError, RecursionError, ValueError) as error:
        raise TemplateError(f"prompt template {name}: {error}") from error


_template = lru_cache(maxsize=64)(_ENVIRONMENT.from_string)  # when it is first used


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
        text = _template(layout.source).render(variables)
    except Exception as error:
        # A template is a program: any exception is its own error.
        raise InvalidParameter(
            "prompt_name", f"names a template that failed: {error}"[:300]
        ) from error
    finally:
        BUDGET.reset(token)
    if len(text) > MAX_SIZE:
        raise InvalidParameter("prompt_name", "names a template whose prompt is too long")
    return text.strip() if not layout.asks else text
