"""Renders probe conversations with a template, to see what it makes of reasoning and calls.

The texts of a probe are needles that occur nowhere else, so a rendering can be taken apart at them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ...core.request import Message, ToolCall
from ..formats.base import ID
from ..template import TemplateError
from ..template.bounds import Budget
from ..template.templates import ChatTemplate
from .adapt import as_dicts

USER = Message(role="user", content="NeedleUserText")
CONTENT, REASON = "NeedleContent", "NeedleReason"
NAMES = ("needle_name_one", "needle_name_two")
KEYS = ("needle_key_one", "needle_key_two")
VALUES = ("NeedleValueOne", "NeedleValueTwo")
IDS = ("callid001", "callid002")
LONG_IDS = ("longcallid001", "longcallid002")

Call = tuple[str, Mapping[str, Any]]
_NOW = datetime(2026, 1, 1)
_ARGUMENT = {"type": "string", "description": "d"}
_PARAMETERS = {
    "type": "object",
    "properties": dict.fromkeys(KEYS, _ARGUMENT),
    "required": [KEYS[0]],
}
_TOOLS = [
    {
        "type": "function",
        "function": {"name": name, "description": "d", "parameters": _PARAMETERS},
    }
    for name in NAMES
]
_THINKS = {"enable_thinking": True, "thinking": True}
STEPS = 100_000
"""The budget of all probes of a template; those of llama.cpp's templates need less than a tenth."""


class Probes:
    """Renders probes with one template; a text is None if the template refuses the messages."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._budget = Budget(STEPS)
        self._known: dict[tuple[Any, ...], str | None] = {}

    def text(self, *messages: Message, prompt: bool = False) -> str | None:
        """The conversation behind the user's first text; with `prompt` as one to be answered."""
        key = (*messages, prompt)
        if key not in self._known:
            texts = (self._rendered((USER, *messages), tools, prompt) for tools in (_TOOLS, None))
            behind = (text.rpartition(USER.content)[1:] for text in texts)
            self._known[key] = next((text for needle, text in behind if needle), None)
        return self._known[key]

    def _rendered(self, chat: tuple[Message, ...], tools: Any, prompt: bool) -> str:
        """The prompt, "" if the template refuses."""
        messages = as_dicts(chat, self._template.rules)
        for message in messages:
            if "reasoning_content" in message:
                message["reasoning"] = message["reasoning_content"]  # as some templates call it
        try:
            return self._template.render(
                messages,
                tools,
                add_generation_prompt=prompt,
                now=_NOW,
                variables=_THINKS,
                budget=self._budget,
            )
        except TemplateError:
            return ""

    def mentions(self, text: str) -> bool:
        """Whether the prompt of a model that thinks has this text."""
        return text in self._rendered((USER,), None, prompt=True)

    def calls(self, *calls: Call, reason: str = "", ids: tuple[str, ...] = IDS) -> str | None:
        """An assistant's message with calls, in which ID stands for their ids."""
        made = tuple(
            ToolCall(call_id, name, json.dumps(arguments))
            for call_id, (name, arguments) in zip(ids, calls, strict=False)
        )
        text = self.text(Message(role="assistant", reasoning=reason, tool_calls=made))
        if text is None:
            return None
        for call_id in ids:
            text = text.replace(call_id, ID)
        return text

    def answer(self, reason: str = "") -> str | None:
        """An assistant's message with text."""
        return self.text(Message(role="assistant", content=CONTENT, reasoning=reason))
