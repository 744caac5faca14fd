"""What a recording counts."""

import math

import pytest

from proxy.core.task import tokens_of, usage_heard
from proxy.core.usage import Usage


@pytest.mark.parametrize(
    ("end", "counted"),
    [
        (b'{"usage": {"type": "duration", "seconds": 3.2500000000000004}}', Usage(33)),
        (b'{"usage": {"input_tokens": 40, "output_tokens": 7, "seconds": 9}}', Usage(40, 7)),
        (b'{"usage": {"seconds": 99999999999}}', Usage()),
        (b'{"usage": {"input_tokens": 99999999999}}', Usage()),
        (b'{"seconds": 3}', Usage()),
    ],
)
def test_end_of_an_answer_says_what_counts(end: bytes, counted: Usage) -> None:
    assert usage_heard(end) == counted


@pytest.mark.parametrize("seconds", [-1.0, 1e300, math.inf, math.nan])
def test_impossible_length_counts_nothing(seconds: float) -> None:
    assert tokens_of(seconds) == 0
