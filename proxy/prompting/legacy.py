"""The plain-text prompt of PowerInfer's ``api_like_OAI.py``, byte for byte.

The format is defined by ``convert_chat`` in that script. For the roles it knows, the output is
identical. It silently drops other roles; here a developer message is treated as a system message,
and a tool result as a user message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec


class LegacyFormat(msgspec.Struct, frozen=True, kw_only=True):
    """The texts before each turn, with ``\\n`` escapes already decoded; the defaults are the
    script's."""

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
        """The stop strings that the script sends before the client's."""
        return (self.stop,) if self.stop else ()

    @property
    def turns(self) -> tuple[str, ...]:
        """The text that begins the user's turn: models of other formats write the next one too."""
        begins = self.user_name.rstrip()
        return (begins,) if begins else ()

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt for ``messages``, of which ``role`` and ``content`` are used."""
        parts = [self.chat_prompt]
        for message in messages:
            content = message["content"]
            match message["role"]:
                case "system" | "developer":
                    parts += (self.system_name, f"{content}")
                case "user" | "tool" | "function":
                    parts += (self.user_name, f"{content}")
                case "assistant":
                    parts += (self.ai_name, f"{content}", self.stop)
        parts.append(self.ai_name.rstrip())
        return "".join(parts)
