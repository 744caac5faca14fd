"""Thoughts and answer are separated in the same way however the stream is split."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.events import Batch, Finished, ReasoningDelta, TextDelta
from proxy.core.usage import Usage
from proxy.prompting.stages.reasoning import REASONING_TAGS, ThoughtStage

END = Finished(reason="stop", usage=Usage(1, 2))
OPENED = "<|im_start|>assistant\n<think>\n"


def joined(batch: Batch) -> tuple[str, str]:
    """The reasoning and the text."""
    texts: dict[type, list[str]] = {kind: [] for kind in (ReasoningDelta, TextDelta)}
    for event in batch:
        if isinstance(event, ReasoningDelta | TextDelta):
            assert event.text
            texts[type(event)].append(event.text)
    return "".join(texts[ReasoningDelta]), "".join(texts[TextDelta])


def split(pieces: list[str], prompt: str = "", **form: Any) -> tuple[str, str]:
    stage = ThoughtStage(prompt, **form)
    out = [event for piece in pieces if piece for event in stage.feed([TextDelta(piece)])]
    return joined(out + stage.feed([END]))


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
    assert split([reply], OPENED) == (reasoning, text)
    assert split(list(reply), OPENED) == (reasoning, text)


TAGS = [tag for tags in REASONING_TAGS for tag in tags if tag]
BITS = [*TAGS, "\n", " ", "<", "</", "think>", "é", "a", "◁"]


@given(st.lists(st.sampled_from(BITS)), st.data())
def test_thoughts_are_the_same_whole_and_split(bits: list[str], data: st.DataObject) -> None:
    reply = "".join(bits)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(reply)))))
    pieces = [reply[a:b] for a, b in zip([0, *cuts], [*cuts, len(reply)], strict=True)]
    for prompt in ("", OPENED):
        assert split(pieces, prompt) == split([reply], prompt)


def test_only_possible_tags_are_held_back() -> None:
    stage = ThoughtStage()
    for piece, reasoning, text in (
        ("<think>Let me see", "Let me see", ""),
        (" it\n", " it", ""),
        ("</", "", ""),
        ("b>", "\n</b>", ""),
        ("</think>So", "", "So"),
        ("<", "", "<"),
    ):
        assert joined(stage.feed([TextDelta(piece)])) == (reasoning, text)


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


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("<response>Hi</response>", "Hi"),
        ("<think>a</think> <response>Hi <b>\n</response>\n", "Hi <b>\n"),
        ("Hi <response>", "Hi <response>"),
        ("<resp", "<resp"),
    ],
)
def test_marks_around_the_text_are_removed(reply: str, text: str) -> None:
    for pieces in ([reply], [*reply]):
        assert split(pieces, content=("<response>", "</response>"))[1] == text


def test_closing_tag_of_the_model_alone_is_no_text() -> None:
    """A turn of MiniMax M3 without reasoning begins with it."""
    for pieces in (["</mm:think>\n\nHi"], [*"</mm:think>\n\nHi"]):
        assert split(pieces, known=(("<mm:think>", "</mm:think>"),)) == ("", "Hi")
