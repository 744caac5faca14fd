"""Says in words what a template takes and what its model writes."""

from __future__ import annotations

from ..formats.base import ID, CallShape
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
    """The lines about the form of a prompter."""
    form = prompter.form
    if isinstance(form, LegacyFormat):
        return (("format", "plain text"),)
    return describe(form.rules, prompter.syntax)


def describe(rules: MessageRules, syntax: AnswerSyntax) -> tuple[Line, ...]:
    """The lines about a template: system messages, calls, reasoning, switches and end tokens."""
    lines = [("system messages", _SYSTEM[rules.system])]
    if rules.alternates:
        lines.append(("turns", "user and assistant in turn; others are joined"))
    if rules.content == "parts":
        lines.append(("contents", "lists of parts"))
    lines.append(("calls", _calls(rules, syntax)))
    if syntax.reasoning:
        pairs = (f"{opening or 'the prompt'} … {closing}" for opening, closing in syntax.reasoning)
        lines.append(("reasoning", _in_line(", ".join(pairs))))
    if switches := _switches(rules):
        lines.append(("switches", switches))
    lines.append(("ends", ", ".join(syntax.stops) or "the model's own end token"))
    return tuple(lines)


def _calls(rules: MessageRules, syntax: AnswerSyntax) -> str:
    if syntax.calls is None:
        return "JSON as slotproxy describes it in the messages"
    shape = syntax.calls.shape
    parts = [_form(shape)]
    single = rules.calls_per_turn == "one" or not shape.parallel
    parts.append("one in a turn" if single else "several in a turn")
    if rules.call_ids == "nine":
        parts.append("ids of nine characters")
    if not rules.tools:
        parts.append("tools are described in the messages")
    return "; ".join(parts)


def _form(shape: CallShape) -> str:
    """A call of this shape."""
    text = write_calls(shape, ("NAME", {"KEY": "…"}))
    return _in_line(text.replace(ID, "ID"))[:WIDTH]


def _in_line(text: str) -> str:
    return " ".join(text.split())


def _switches(rules: MessageRules) -> str:
    parts = ["thinking on and off"] if rules.thinks else []
    if rules.efforts:
        parts.append(f"effort {', '.join(rules.efforts)}")
    return "; ".join(parts)
