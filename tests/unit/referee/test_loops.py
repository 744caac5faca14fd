"""Loops, and texts that only look like loops."""

from __future__ import annotations

import time
from itertools import islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.referee import DATA, LONG, PROSE, STEP, WINDOW, WORDS, Loop, find
from tests.unit.referee.corpus import answers

COUNT = 10_000
SENTENCE = b"She asked him where the key was, and he said that he did not know. "


def loop_in(text: bytes) -> Loop | None:
    """The first loop in a text that grows, as an answer does."""
    growing = bytearray()
    for at in range(0, len(text), STEP):
        growing += text[at : at + STEP]
        if (loop := find(growing)) is not None:
            return loop
    return None


def test_answers_that_repeat_themselves_rightly_are_not_cut() -> None:
    cut = [(kind, text) for kind, text in answers(COUNT) if loop_in(text.encode())]
    assert len(cut) < COUNT / 1000, cut[:3]


@given(st.binary(min_size=1, max_size=400), st.binary(max_size=600))
def test_what_is_found_has_the_period(unit: bytes, before: bytes) -> None:
    text = before + unit * (WINDOW // len(unit))
    loop = find(text)
    if loop is not None:
        assert text[loop.start + loop.period :] == text[loop.start : -loop.period]
        assert len(unit) % loop.period == 0 or loop.period <= len(unit)
        assert loop.start + loop.period <= loop.first_copy(text) <= len(text)


def test_start_is_where_the_repetition_begins() -> None:
    before = b"It was late:\n"
    text = before + SENTENCE * 12
    loop = find(text)
    assert loop is not None
    assert (loop.start, loop.period) == (len(before), len(SENTENCE))
    assert text[: loop.first_copy(text)] == before + SENTENCE.rstrip()


def test_a_period_with_equal_parts_is_found() -> None:
    """The last words stand in the period many times."""
    unit = b"".join(b"%d: it is as it is, and so it is as it is. " % n for n in range(30))
    loop = find(unit * 4)
    assert loop is not None
    assert loop.period == len(unit)


@pytest.mark.parametrize("size", [8, 60, LONG, 1500, 5000])
def test_any_period_stands_three_times(size: int) -> None:
    random = Random(size)
    words = [bytes(random.choices(b"abcdefghijklmnop", k=5)) for _ in range(size // 6 + 1)]
    unit = b" ".join(words)[:size].replace(b" ", b" ", 1)
    least = max(PROSE, 3 * size)
    assert find(b"Once: " + (unit * PROSE)[: least - size]) is None or size < 60
    assert find(b"Once: " + unit * (least // size + 2)) is not None


def test_data_repeats_itself_longer_than_prose() -> None:
    data = (b"0, ", b"A", b"| --- ", b"ICAg" * 19 + b"\n", b"\xe2\x94\x80")
    for unit, least in (*((unit, DATA) for unit in data), (b"null,\n", WORDS), (b"no ", WORDS)):
        assert find(unit * (least // len(unit) - 1)) is None
        assert find(unit * (least // len(unit) + 1)) is not None, unit


def test_a_loop_may_end_by_itself() -> None:
    text = bytearray(SENTENCE * 12)
    loop = find(text)
    assert loop is not None
    text += SENTENCE[:20]
    assert loop.goes_on(text)
    text += b"Then he remembered."
    assert not loop.goes_on(text)


def test_a_character_stays_whole() -> None:
    """The first copy seems to begin a byte early, within a character that ends as the unit does."""
    unit = "从前有座山山上有座庙庙里有个老和尚他在给小和尚讲故事讲的是山中"
    text = f"乭{unit * 12}".encode()
    loop = find(text)
    assert loop is not None
    assert text[: loop.first_copy(text)].decode() == f"乭{unit}"


@pytest.mark.alone
def test_looking_costs_less_than_a_tenth_of_a_microsecond_a_byte() -> None:
    texts = [text.encode() for _, text in islice(answers(300), 300)]
    size = sum(map(len, texts))
    began = time.process_time()
    for text in texts:
        loop_in(text)
    assert time.process_time() - began < 1e-7 * size
