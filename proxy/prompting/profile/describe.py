"""Says in words what a template takes and what its model writes."""

from __future__ import annotations

from ..formats.base import ID
from ..formats.tagged import write_calls
from ..prompt import LegacyFormat, Prompter
from .adapt import MessageRules
from .derive import AnswerSyntax

Line = tuple[str, str]  # label and text

_SYSTEM = {
    "anywhere": "anywhere",
    "first": "first only; later ones join a neighbour",
    "none": "none; they join a neighbour",
}
WIDTH = 200  # characters of a call


def profile_of(prompter: Prompter) -> tuple[Line, ...]:
    form = prompter.form
    if isinstance(form, LegacyFormat):
        return (("format", "plain text"),)
    return describe(form.rules, prompter.syntax)


def describe(rules: MessageRules, syntax: AnswerSyntax) -> tuple[Line, ...]:
    """The lines about a template: system messages, calls, reasoning, switches and end tokens."""
    pairs = (f"{opening or 'the prompt'} … {closing}" for opening, closing in syntax.reasoning)
    switches = ["thinking on and off"] if rules.thinks else []
    if rules.efforts:
        switches.append(f"effort {', '.join(rules.efforts)}")
    lines = [
        ("system messages", _SYSTEM[rules.system]),
        ("turns", "user and assistant in turn; others are joined" if rules.alternates else ""),
        ("contents", "lists of parts" if rules.content == "parts" else ""),
        ("calls", _calls(rules, syntax)),
        ("reasoning", " ".join(", ".join(pairs).split())),
        ("switches", "; ".join(switches)),
        ("ends", ", ".join(syntax.stops) or "the model's own end token"),
    ]
    return tuple((label, text) for label, text in lines if text)


def _calls(rules: MessageRules, syntax: AnswerSyntax) -> str:
    if syntax.calls is None:
        return "JSON as slotproxy describes it in the messages"
    shape = syntax.calls.shape
    call = write_calls(shape, ("NAME", {"KEY": "…"})).replace(ID, "ID")
    parts = [" ".join(call.split())[:WIDTH]]
    single = rules.calls_per_turn == "one" or not shape.parallel
    parts.append("one in a turn" if single else "several in a turn")
    if rules.call_ids == "nine":
        parts.append("ids of nine characters")
    if not rules.tools:
        parts.append("tools are described in the messages")
    return "; ".join(parts)
