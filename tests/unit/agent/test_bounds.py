"""Bounds on tools and the children they run in, each at its edge."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.agent import calculator
from proxy.agent.calculator import Wrong, calculate
from proxy.cancel import Cancel
from proxy.children import LONGEST, Children
from proxy.errors import UpstreamFault

SOURCE = """
from proxy.children import serve

def begin(setup):
    return lambda question: "x" * question

if __name__ == "__main__":
    serve(begin)
"""


def test_calculations() -> None:
    most = calculator.LONGEST
    assert calculate("1" + " " * (most - 1)) == "1"
    with pytest.raises(Wrong, match=f"{most} characters"):
        calculate("1" + " " * most)
    deepest = calculator.DEEPEST
    assert calculate("-" * (deepest - 2) + "1") in ("1", "-1")
    with pytest.raises(Wrong, match="nested"):
        calculate("-" * (deepest + 1) + "1")
    bits = calculator.MOST_BITS
    number = f"2 ** {bits // 2 - 1} * 2 ** {bits // 2}"
    assert len(calculate(number)) > 100  # of so many bits
    with pytest.raises(Wrong, match="too large"):
        calculate(f"{number} * 2")


@pytest.fixture
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Children]:
    (tmp_path / "made_up_helper.py").write_text(SOURCE)
    command = [sys.executable, str(tmp_path / "made_up_helper.py")]
    monkeypatch.setattr("proxy.children.command", lambda module: command)
    made = Children("made_up_helper")
    yield made
    made.close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX system")
def test_answer_of_a_child(children: Children) -> None:
    fits = LONGEST - 3  # two quotes, and the end of the line
    assert len(children.ask(fits, Cancel(), 60)) == fits
    with pytest.raises(UpstreamFault):
        children.ask(fits + 1, Cancel(), 60)
