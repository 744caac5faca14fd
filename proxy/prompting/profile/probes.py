"""Renders probe conversations with a template, to see what it makes of reasoning and calls.

The texts of a probe are needles that occur nowhere else, so a rendering can be taken apart at them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ..formats.base import ID
from ..template import TemplateError
from ..template.bounds import Budget
from ..template.templates import ChatTemplate

USER, AGAIN = "NeedleUserText", "NeedleUserAgain"
CONTENT, REASON, RESULT = "NeedleContent", "NeedleReason", "NeedleResult"
NAMES = ("needle_name_one", "needle_name_two")
KEYS = ("needle_key_one", "needle_key_two")
VALUES = ("NeedleValueOne", "NeedleValueTwo")
IDS = ("callid001", "callid002")
LONG_IDS = ("longcallid001", "longcallid002")

Call = tuple[str, Mapping[str, Any]]
_NOW = datetime(2026, 1, 1)
_ARGUMENT = {"type": "string", "description": "d"}
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "d",
            "parameters": {
                "type": "object",
                "properties": dict.fromkeys(KEYS, _ARGUMENT),
                "required": [KEYS[0]],
            },
        },
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
        self._known: dict[str, str | None] = {}

    def text(self, *messages: Mapping[str, Any], prompt: bool = False) -> str | None:
        """The conversation behind the user's first text; with `prompt` as one to be answered."""
        key = repr((messages, prompt))
        if key not in self._known:
            self._known[key] = self._text(messages, prompt)
        return self._known[key]

    def _text(self, messages: Sequence[Mapping[str, Any]], prompt: bool) -> str | None:
        user = {"role": "user", "content": USER}
        chat = [self._taken(message) for message in (user, *messages)]
        for tools in (_TOOLS, None):
            try:
                text = self._template.render(
                    chat,
                    tools,
                    add_generation_prompt=prompt,
                    now=_NOW,
                    variables=_THINKS,
                    budget=self._budget,
                )
            except TemplateError:
                continue
            _, needle, behind = text.rpartition(USER)
            if needle:
                return behind
        return None

    def _taken(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """The message as the template takes it."""
        rules = self._template.rules
        if rules.content == "parts" and message["content"] is not None:
            message = {**message, "content": [{"type": "text", "text": message["content"]}]}
        if rules.arguments == "text" and "tool_calls" in message:
            calls = [
                {
                    **call,
                    "function": {
                        **call["function"],
                        "arguments": json.dumps(call["function"]["arguments"]),
                    },
                }
                for call in message["tool_calls"]
            ]
            message = {**message, "tool_calls": calls}
        return message

    def mentions(self, text: str) -> bool:
        """Whether the prompt of a model that thinks has this text."""
        user = {"role": "user", "content": USER}
        try:
            prompt = self._template.render([user], now=_NOW, variables=_THINKS, budget=self._budget)
        except TemplateError:
            return False
        return text in prompt

    def calls(
        self,
        *calls: Call,
        content: str = "",
        reason: str = "",
        ids: tuple[str, ...] = IDS,
        result: bool = False,
    ) -> str | None:
        """An assistant's message with calls, in which ID stands for their ids. With `result` the
        first call's result follows."""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": content,
            "tool_calls": [
                {
                    "id": call_id,
                    "type": "function",
                    "function": {"name": name, "arguments": dict(arguments)},
                }
                for call_id, (name, arguments) in zip(ids, calls, strict=False)
            ],
        }
        if reason:
            message["reasoning_content"] = message["reasoning"] = reason
        messages = [message]
        if result:
            messages.append(
                {"role": "tool", "tool_call_id": ids[0], "name": calls[0][0], "content": RESULT}
            )
        text = self.text(*messages)
        if text is None and not content:
            message["content"] = None
            text = self.text(*messages)
        if text is None:
            return None
        for call_id in ids:
            text = text.replace(call_id, ID)
        return text

    def answer(self, *, reason: str = "", again: bool = False, prompt: bool = False) -> str | None:
        """An assistant's message with text; with `again` the user's next one follows."""
        message: dict[str, Any] = {"role": "assistant", "content": CONTENT}
        if reason:
            message["reasoning_content"] = message["reasoning"] = reason
        more = ({"role": "user", "content": AGAIN},) if again else ()
        return self.text(message, *more, prompt=prompt)
