"""What a template accepts in its messages."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class MessageRules(Struct, frozen=True, kw_only=True):
    """How messages must be arranged so that a template takes all of them."""

    system: Literal["anywhere", "first", "none"] = "anywhere"
    """Where system messages may stand. With "first", later ones become part of a neighbour; with
    "none", the first user message begins with the system text."""
    alternates: bool = False
    """Whether user and assistant must take turns."""
    content: Literal["text", "parts"] = "text"
    """Whether contents are texts, or must be lists of parts."""
    call_ids: Literal["any", "nine"] = "any"
    """Whether ids of calls must have nine letters or digits."""
    calls_per_turn: Literal["many", "one"] = "many"
    arguments: Literal["object", "text"] = "object"
    tools: bool = False
    """Whether the template describes tools."""
    calls: bool = False
    """Whether the template writes calls and their results."""
    efforts: tuple[str, ...] = ()
    """The words for reasoning_effort that the template takes, the least first; () if it reads
    none."""
