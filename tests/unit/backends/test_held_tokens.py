"""Prompts in the tokens that a slot holds, with a tokenizer that prefers long tokens."""

from __future__ import annotations

import re

import pytest

from proxy.backends.old import LONGEST_TEXT, HeldPrompt, HeldTokens
from proxy.errors import UpstreamFault

Prompt = str | list[str | int]
VOCABULARY = ["<end>", "\n\n", "\n", "code", "co", "de", "x", "y", ":", "user", " "]
MARKS = ("<end>",)
PROMPT = "<end>user x<end>"
WRITTEN = ["code", ":", "\n", "\n", "x"]  # its text has a double line feed, another token
NEXT = "<end>user y<end>"


def tokenize(text: str) -> list[int]:
    found = re.findall("|".join(map(re.escape, VOCABULARY)), text)
    assert "".join(found) == text
    return [VOCABULARY.index(one) for one in found]


def detokenize(ids: list[int]) -> str:
    return "".join(VOCABULARY[one] for one in ids)


class Slot(HeldTokens):
    def __init__(self) -> None:
        super().__init__(tokenize, detokenize)
        self.joined: list[list[str]] = []
        self.sent = HeldPrompt(0)
        self.parts_are_joined = True

    def _joins(self, parts: list[str]) -> bool:
        self.joined.append(parts)
        return self.parts_are_joined

    def ask(
        self,
        text: str,
        room: int = 1000,
        marks: tuple[str, ...] = MARKS,
        breaks: tuple[int, ...] = (),
    ) -> Prompt:
        self.sent = self.prompt(0, text, breaks, marks, room=room, joins=self._joins)
        first = text[: self.sent.first]
        return [first, *self.sent.ids] if self.sent.ids else first

    def turn(self, text: str, pieces: list[str], breaks: tuple[int, ...] = ()) -> Prompt:
        """Ask, and answer with these pieces."""
        sent = self.ask(text, breaks=breaks)
        size = len(tokens(sent))
        self.ended(0, text, breaks, self.sent, tokens=size, pieces=pieces)
        return sent


def tokens(sent: Prompt) -> list[int]:
    """The ids that a server gets from a prompt."""
    if isinstance(sent, str):
        return tokenize(sent)
    return [one for part in sent for one in (tokenize(part) if isinstance(part, str) else [part])]


def held(pieces: list[str]) -> list[int]:
    return tokenize(PROMPT) + [VOCABULARY.index(one) for one in pieces]


def test_next_prompt_begins_with_the_tokens_that_the_model_wrote() -> None:
    slot = Slot()
    assert slot.turn(PROMPT, WRITTEN) == PROMPT
    text = PROMPT + "".join(WRITTEN) + NEXT
    sent = slot.ask(text)
    assert tokens(sent) == held(WRITTEN) + tokenize(NEXT)
    assert tokens(sent) != tokenize(text)
    assert slot.joined == [[PROMPT, "code"]]


def test_text_is_sent_as_it_is_where_its_tokens_do_not_differ() -> None:
    slot = Slot()
    slot.turn(PROMPT, ["code", ":", "\n\n"])
    text = f"{PROMPT}code:\n\n{NEXT}"
    assert slot.ask(text) == text
    assert slot.joined == []


def test_tokens_of_all_turns_are_kept() -> None:
    slot = Slot()
    slot.turn(PROMPT, WRITTEN)
    second = PROMPT + "".join(WRITTEN) + NEXT
    slot.turn(second, ["co", "de"])
    third = f"{second}code{NEXT}"
    expected = held(WRITTEN) + tokenize(NEXT) + tokenize("co") + tokenize("de") + tokenize(NEXT)
    assert tokens(slot.ask(third)) == expected


def test_shortened_answer_keeps_the_tokens_before_the_difference() -> None:
    slot = Slot()
    slot.turn(PROMPT, [*WRITTEN, " "])
    text = PROMPT + "".join(WRITTEN) + NEXT
    assert tokens(slot.ask(text)) == held(WRITTEN) + tokenize(NEXT)


@pytest.mark.parametrize(
    "text",
    [
        "<end>user y<end>code:\n\nx" + NEXT,  # another conversation
        PROMPT + "x" + NEXT,  # another answer
        PROMPT + "code:\n\nx",  # nothing new
        PROMPT,
        PROMPT + "code:\n\nx" + NEXT + "x" * LONGEST_TEXT,
    ],
)
def test_other_text_is_sent_as_it_is(text: str) -> None:
    slot = Slot()
    slot.turn(PROMPT, WRITTEN)
    assert slot.ask(text) == text


def test_prompt_that_does_not_fit_in_the_held_tokens_is_sent_as_text() -> None:
    text = PROMPT + "".join(WRITTEN) + NEXT
    exact = len(held(WRITTEN)) + len(tokenize(NEXT))
    for room, fits in ((exact, True), (exact - 1, False)):
        slot = Slot()
        slot.turn(PROMPT, WRITTEN)
        assert (slot.ask(text, room) != text) == fits


def test_server_that_answers_each_part_gets_text() -> None:
    slot = Slot()
    slot.parts_are_joined = False
    slot.turn(PROMPT, WRITTEN)
    text = PROMPT + "".join(WRITTEN) + NEXT
    assert slot.ask(text) == text


@pytest.mark.parametrize("marks", [(), ("user x",), ("x",)])
def test_without_a_mark_of_one_token_outside_the_answer_text_is_sent(
    marks: tuple[str, ...],
) -> None:
    slot = Slot()
    slot.turn(PROMPT, WRITTEN)
    text = PROMPT + "".join(WRITTEN) + NEXT
    assert slot.ask(text, marks=marks) == text


def test_breaks_of_the_held_prompt_stay_and_those_of_the_answer_are_in_its_ids() -> None:
    slot = Slot()
    slot.turn(PROMPT, WRITTEN, breaks=(7,))
    text = PROMPT + "".join(WRITTEN) + NEXT
    assert slot.ask(text, breaks=(7, len(PROMPT) + 2)) != text


@pytest.mark.parametrize("breaks", [(), (6,), (7, len(PROMPT + "".join(WRITTEN)) + 3)])
def test_prompt_with_other_breaks_or_breaks_in_its_new_text_is_sent_as_text(
    breaks: tuple[int, ...],
) -> None:
    slot = Slot()
    slot.turn(PROMPT, WRITTEN, breaks=(7,))
    text = PROMPT + "".join(WRITTEN) + NEXT
    assert slot.ask(text, breaks=breaks) == text


def test_answer_that_its_ids_do_not_give_is_sent_as_text() -> None:
    slot = Slot()
    slot._detokenize = lambda ids: " " + detokenize(ids)
    slot.turn(PROMPT, WRITTEN)
    text = PROMPT + "".join(WRITTEN) + NEXT
    assert slot.ask(text) == text


def test_slot_holds_nothing_known_after_an_answer_that_broke_off() -> None:
    slot = Slot()
    slot.turn(PROMPT, WRITTEN)
    slot.ask("user x")  # without an end
    text = PROMPT + "".join(WRITTEN) + NEXT
    assert slot.ask(text) == text


def test_fault_of_the_server_reaches_the_caller() -> None:
    slot = Slot()
    slot.turn(PROMPT, WRITTEN)

    def fail(text: str) -> list[int]:
        raise UpstreamFault("the backend returned invalid tokens")

    slot._tokenize = fail
    with pytest.raises(UpstreamFault):
        slot.ask(PROMPT + "".join(WRITTEN) + NEXT)
