"""Thoughts and answer are separated in the same way however the stream is split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.events import Batch, Finished, ReasoningDelta, TextDelta
from proxy.core.usage import Usage
from proxy.prompting.stages.reasoning import (
    REASONING_TAGS,
    ReasoningSplitter,
    Tags,
    ThoughtStage,
    opened_by,
)

THINK = ("<think>", "</think>")


def split(pieces: list[str], opened: Tags | None = None) -> tuple[str, str]:
    splitter = ReasoningSplitter(opened=opened)
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


@given(st.lists(st.lists(st.sampled_from(BITS), min_size=1)))
def test_batched_stage_gives_the_same_as_whole_text(batches: list[list[str]]) -> None:
    for prompt in ("", THINK[0]):
        stage, out = ThoughtStage(prompt), list[Batch]()
        for bits in batches:
            out.append(stage.feed([TextDelta(bit) for bit in bits]))
        out.append(stage.feed([Finished(reason="stop", usage=Usage())]))
        thoughts = [e.text for batch in out for e in batch if isinstance(e, ReasoningDelta)]
        texts = [e.text for batch in out for e in batch if isinstance(e, TextDelta)]
        whole = "".join(bit for bits in batches for bit in bits)
        assert ("".join(thoughts), "".join(texts)) == split([whole], opened_by(prompt))


def test_reply_without_thoughts_is_unchanged() -> None:
    stage = ThoughtStage()
    batch: Batch = [TextDelta(" So <think>", (), 3)]
    assert stage.feed(batch) == batch
    assert stage.passes


@given(st.text())
def test_text_without_tags_passes_unchanged(reply: str) -> None:
    if not any(tag in reply for tag in TAGS):
        assert split(list(reply)) == ("", reply)


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
    splitter = ReasoningSplitter(calls=("<call>",))
    pieces = [reply[at : at + size] for at in range(0, len(reply), size)]
    parts = [pair for piece in pieces for pair in splitter.feed(piece)] + splitter.close()
    assert "".join(part for kind, part in parts if kind == "reasoning") == reasoning
    assert "".join(part for kind, part in parts if kind == "text") == text
