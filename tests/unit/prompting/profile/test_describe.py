"""Templates and their models' answers in words."""

from __future__ import annotations

from proxy.prompting.formats.base import ID, CallShape
from proxy.prompting.formats.shaped import shaped
from proxy.prompting.profile.adapt import MessageRules
from proxy.prompting.profile.derive import AnswerSyntax
from proxy.prompting.profile.describe import describe


def lines(rules: MessageRules, syntax: AnswerSyntax) -> dict[str, str]:
    return dict(describe(rules, syntax))


def test_plain_template_has_few_lines() -> None:
    assert lines(MessageRules(), AnswerSyntax()) == {
        "system messages": "anywhere",
        "calls": "JSON as slotproxy describes it in the messages",
        "ends": "the model's own end token",
    }


def test_strict_template_says_what_is_adapted() -> None:
    rules = MessageRules(
        system="none",
        alternates=True,
        content="parts",
        tools=True,
        call_ids="nine",
        calls_per_turn="one",
        thinks=True,
        efforts=("low", "high"),
    )
    shape = CallShape(prefix="[CALLS]", before_name=f"{ID}\n", after_name="(", suffix=")")
    syntax = AnswerSyntax(
        reasoning=(("<think>\n", "</think>"), ("", "[END]")), calls=shaped(shape), stops=("a", "b")
    )
    assert lines(rules, syntax) == {
        "system messages": "none; they join a neighbour",
        "turns": "user and assistant in turn; others are joined",
        "contents": "lists of parts",
        "calls": '[CALLS]ID NAME({"KEY": "…"}); one in a turn; ids of nine characters',
        "reasoning": "<think> … </think>, the prompt … [END]",
        "switches": "thinking on and off; effort low, high",
        "ends": "a, b",
    }
