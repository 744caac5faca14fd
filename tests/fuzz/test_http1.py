"""A few seconds of the fuzzer of the HTTP reader, the same inputs each time."""

from __future__ import annotations

import pytest

from tests.fuzz import http1
from tests.thorough import share


def test_reader_agrees_with_h11() -> None:
    """A part of the million that `python -m tests.fuzz.http1 --inputs 1000000` tries."""
    inputs = share(20_000)
    counted = http1.run(1, lambda number: number < inputs)
    assert counted["both take"] > inputs / 10
    assert counted["inputs"] == inputs


@pytest.mark.parametrize("message", http1.VALID)
def test_oracle_and_reader_accept_valid_requests(message: bytes) -> None:
    assert len(http1.ours([message]).messages) == len(http1.judge(message).messages) == 1


def test_difference_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer itself can fail."""
    monkeypatch.setattr("proxy.server.reader.Reader._check_coding", lambda *_: None)
    with pytest.raises(http1.Finding):
        http1.run(1, lambda number: number < 1000)
