"""Thoughts and answer are separated in the same way however the stream is split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.prompting.stages.reasoning import (
    REASONING_TAGS,
    ReasoningSplitter,
    Tags,
    opened_by,
)

THINK = ("<think>", "</think>")


def split(
    pieces: list[str], opened: Tags | None = None, calls: tuple[str, ...] = ()
) -> tuple[str, str]:
    splitter = ReasoningSplitter(opened=opened, calls=calls)
    found = [pair for piece in pieces for pair in splitter.feed(piece)] + splitter.close()
    assert all(text for _, text in found)
    return (
        "".join(text for kind, text in found if kind == "reasoning"),
        "".join(text for kind, text in found if kind == "text"),
    )


@pytest.mark.parametrize(
    ("reply", "reasoning", "text"),
    [
        ("", "", ""),
        ("Hello", "", "Hello"),
        ("  \n Hello", "", "  \n Hello"),
        ("<think>a</think>b", "a", "b"),
        ("\n<think>\na\n\nb\n</think>\n\nc\n", "a\n\nb", "c\n"),
        ("<think>\n\n</think>\n\nc", "", "c"),
        ("<think></think>c", "", "c"),
        ("<thinking>a</thinking>b", "a", "b"),
        ("<thought>a</thought>b", "a", "b"),
        ("◁think▷a◁/think▷b", "a", "b"),
        ("[THINK]a[/THINK]b", "a", "b"),
        ("<|START_THINKING|>a<|END_THINKING|>b", "a", "b"),
        ("The tag <think> opens</think>", "", "The tag <think> opens</think>"),
        ("<think>a</think>\n<think>b</think>c", "ab", "c"),
        ("<think>never closed </thin", "never closed </thin", ""),
        ("<think>a < b </think >\n</think>c", "a < b </think >", "c"),
        ("<thin ice", "", "<thin ice"),
        ("<thin", "", "<thin"),
        ("</think>a", "", "</think>a"),
    ],
)
def test_thoughts_are_separated_however_the_reply_is_split(
    reply: str, reasoning: str, text: str
) -> None:
    assert split([reply]) == (reasoning, text)
    assert split(list(reply)) == (reasoning, text)
    for at in range(len(reply)):
        assert split([reply[:at], reply[at:]]) == (reasoning, text)


@pytest.mark.parametrize(
    ("reply", "reasoning", "text"),
    [
        ("a\n</think>\n\nb", "a", "b"),
        ("<think>\na</think>b", "a", "b"),
        ("\na", "a", ""),
        ("</think>b", "", "b"),
        ("<t", "<t", ""),
    ],
)
def test_reply_continues_thoughts_opened_by_the_prompt(
    reply: str, reasoning: str, text: str
) -> None:
    assert split([reply], THINK) == (reasoning, text)
    assert split(list(reply), THINK) == (reasoning, text)


def test_end_of_prompt_shows_whether_thoughts_are_open() -> None:
    assert opened_by("<|im_start|>assistant\n<think>\n") == THINK
    assert opened_by("<|im_start|>assistant\n<think>\n\n</think>\n\n") is None
    assert opened_by("") is None


TAGS = [tag for tags in REASONING_TAGS for tag in tags if tag]
BITS = [*TAGS, "\n", " ", "<", "</", "think>", "é", "a", "◁"]


@given(st.lists(st.sampled_from(BITS)), st.data())
def test_thoughts_are_the_same_whole_and_split(bits: list[str], data: st.DataObject) -> None:
    reply = "".join(bits)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(reply)))))
    pieces = [reply[a:b] for a, b in zip([0, *cuts], [*cuts, len(reply)], strict=True)]
    for opened in (None, THINK):
        assert split(pieces, opened) == split([reply], opened)


def test_only_possible_tags_are_held_back() -> None:
    splitter = ReasoningSplitter()
    assert splitter.feed("<think>Let me see") == [("reasoning", "Let me see")]
    assert splitter.feed(" it\n") == [("reasoning", " it")]
    assert splitter.feed("</") == []
    assert splitter.feed("b>") == [("reasoning", "\n</b>")]
    assert splitter.feed("</think>So") == [("text", "So")]
    assert splitter.feed("<") == [("text", "<")]


@pytest.mark.parametrize(
    ("reply", "reasoning", "text"),
    [
        ("<think>Let me look.\n<call>{}", "Let me look.", "<call>{}"),
        ("<think>I could write <call> here.</think>Hi", "I could write <call> here.", "Hi"),
        ("<think>```\n<call>\n```\n</think>Hi", "```\n<call>\n```", "Hi"),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_call_that_begins_a_line_ends_the_reasoning(
    reply: str, reasoning: str, text: str, size: int
) -> None:
    pieces = [reply[at : at + size] for at in range(0, len(reply), size)]
    assert split(pieces, calls=("<call>",)) == (reasoning, text)
