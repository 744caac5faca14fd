"""Recorded answers of models that repeat themselves end soon, and behind their first copy.

What stands three times at the end of a recorded answer is taken to go on to the limit: at
temperature 0, a repetition hardly ever ends by itself."""

from __future__ import annotations

import json
import lzma
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from proxy.referee import FIRST, STEP, Referee
from tests.fakes import ScriptedDriver, client, say

HERE = Path(__file__).parent
LIMIT = 4096  # tokens that each would have written
LEAST = 24  # tokens of a repetition at the end of the recorded answer


class Looping(NamedTuple):
    pieces: list[str]  # up to the limit
    first: int  # of them, up to the end of the first copy


def looping(pieces: list[str]) -> Looping | None:
    """The answer, if it ends with a period that stands three times."""
    size = len(pieces)
    for period in range(1, size // 3):
        tail = pieces[-period:]
        if tail == pieces[-2 * period : -period] == pieces[-3 * period : -2 * period]:
            start = size - 3 * period
            while start and pieces[start - 1] == pieces[start - 1 + period]:
                start -= 1
            if size - start >= LEAST:
                more = islice(cycle(tail), max(0, LIMIT - size))
                return Looping([*pieces, *more], start + period)
    return None


@cache
def recorded(model: str) -> list[Looping]:
    answers = json.loads(lzma.decompress((HERE / f"{model}.json.xz").read_bytes()))
    return [loop for answer in answers if (loop := looping(answer["pieces"])) is not None]


def stopped(pieces: list[str], *, waits: bool) -> int:
    """How many pieces come until the referee stops them; all if it does not."""
    referee, text, look = Referee("auto"), bytearray(), FIRST
    for number, piece in enumerate(pieces, 1):
        text += piece.encode()
        if len(text) >= look and not (look := referee.look(text, waits=waits)):
            return number
    return len(pieces)


@pytest.mark.parametrize("waits", [False, True])
def test_nine_of_ten_end_with_a_tenth_of_the_waste(waits: bool) -> None:
    answers = recorded("smollm2") + recorded("made-up")
    ends = [stopped(pieces, waits=waits) for pieces, _ in answers]
    wasted = sum(LIMIT - first for _, first in answers)
    remain = sum(end - first for end, (_, first) in zip(ends, answers, strict=True))
    assert len(answers) > 450
    assert sum(end < LIMIT for end in ends) >= 0.9 * len(ends)
    assert remain <= 0.1 * wasted


def test_what_remains_of_them_is_their_beginning() -> None:
    for pieces, first in recorded("smollm2")[:8]:
        driver = ScriptedDriver(say(*pieces[:1500], reason="length"))
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
        got = client(driver).post("/v1/chat/completions", json=body)
        assert got.json is not None
        choice, whole = got.json["choices"][0], "".join(pieces)
        text = choice["message"]["content"]
        assert choice["finish_reason"] == "stop"
        assert whole.startswith(text)
        assert len(text) <= len("".join(pieces[:first])) + STEP
