"""What a template accepts in its messages."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from ...core.request import Role


class MessageRules(Struct, frozen=True, kw_only=True):
    """How messages must be arranged and written so that a template takes all of them."""

    system: Literal["anywhere", "first", "none"] = "anywhere"
    """Where system messages may stand. With "first", later ones become part of a neighbour; with
    "none", all of them do."""
    alternates: bool = False
    """Whether user and assistant must take turns, the user first."""
    content: Literal["text", "both", "parts"] = "text"
    """Whether contents must be texts, may be lists of parts, or must be lists of parts."""
    text_roles: tuple[Role, ...] = ()
    """Roles whose contents must be texts even so."""
    trims: bool = False
    """Whether white space around contents misleads the model."""

    tools: bool = False
    """Whether the template describes tools."""
    calls: bool = False
    """Whether the template writes calls and their results."""
    call_ids: Literal["any", "nine"] = "any"
    """Whether ids of calls must have nine letters or digits."""
    calls_per_turn: Literal["many", "one"] = "many"
    arguments: Literal["object", "text"] = "object"
    results: Literal["messages", "named", "responses"] = "messages"
    """Whether results are messages, must tell the name of their tool, or are the `tool_responses`
    of the assistant's message."""
    text_with_calls: bool = True
    """Whether a message with calls may have a text; otherwise the text is a message before it."""
    user_after_result: bool = True
    """Whether a user's message may follow a tool's result; otherwise it joins the result."""

    reasoning: Literal["reasoning_content", "thinking", "parts"] = "reasoning_content"
    """Where the template reads the reasoning of an assistant's message: in the field of that name,
    or in parts of the content."""
    text_with_thought_calls: bool = True
    """Whether a message with calls and reasoning may have a text too."""
    thinks: bool = False
    """Whether the template has a switch for thinking, `enable_thinking`."""
    efforts: tuple[str, ...] = ()
    """The words for reasoning_effort that the template takes, the least first; () if it reads
    none."""

    opening: str = ""
    """What begins the model's turn, with thinking on."""
    lead: str | None = None
    """What follows that in an answer without reasoning; None if such an answer begins otherwise."""
    thought: tuple[str, str] | None = None
    """What follows `opening` before the reasoning of the last answer, and what is between that and
    the text; None if the template writes no reasoning there."""
    end: str = ""
    """The end of the assistant's turn, or if nothing marks that, the beginning of the user's."""
    end_is_token: bool = False
    """Whether `end` has the form of a special token."""
