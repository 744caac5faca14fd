"""Ollama's keep_alive."""

from __future__ import annotations

import math

import pytest

from proxy.apis.ollama.dialects import keep_alive


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        (0, 0.0),
        ("0", 0.0),
        ("0s", 0.0),
        (300, 300.0),
        (1.5, 1.5),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("250ms", 0.25),
        ("+10s", 10.0),
        (-1, math.inf),
        ("-1", math.inf),
        ("-1m", math.inf),
    ],
)
def test_keep_alive_is_read_as_ollama_does(value: object, seconds: float | None) -> None:
    assert keep_alive({"keep_alive": value}) == seconds
