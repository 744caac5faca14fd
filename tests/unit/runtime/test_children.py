"""Helper processes that end when they are idle, and start again."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from proxy.runtime.cancel import Cancel
from proxy.runtime.subprocesses import Children
from tests.fakes import wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX system")
SOURCE = """
import os
from proxy.runtime.subprocesses import serve

if __name__ == "__main__":
    serve(lambda setup: lambda question: [question, os.getpid()])
"""
Make = Callable[..., Children]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Children that answer with the question and their process."""
    (tmp_path / "made_up_helper.py").write_text(SOURCE)
    command = [sys.executable, str(tmp_path / "made_up_helper.py")]
    monkeypatch.setattr("proxy.runtime.subprocesses.command", lambda module: command)
    made: list[Children] = []

    def start(unload: float, most: int = 1) -> Children:
        made.append(Children("made_up_helper", most=most, start=60.0, unload=unload))
        return made[-1]

    yield start
    for one in made:
        one.close()


def ask(children: Children, question: int) -> int:
    """Ask, and return the process that answered."""
    said, pid = children.ask(question, Cancel(), 60.0)
    assert said == question
    return int(pid)


def test_idle_child_ends_and_the_next_question_starts_another(make: Make) -> None:
    children = make(unload=0.05)
    first = ask(children, 1)
    wait_until(lambda: not children._idle)
    assert ask(children, 2) != first


def test_no_question_is_lost_to_an_ending_child(make: Make) -> None:
    """Questions come at about the moment at which the child is to end."""
    children = make(unload=0.001, most=2)
    pauses = random.Random(1)

    def work(number: int) -> None:
        for turn in range(15):
            ask(children, 100 * number + turn)
            time.sleep(pauses.uniform(0.0, 0.003))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    wait_until(lambda: not children._idle)
