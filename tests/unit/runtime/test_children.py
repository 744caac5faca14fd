"""Helper processes: their bounds, and that idle ones end and start again."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import Cancelled, UpstreamFault, UpstreamTimeout
from proxy.runtime.cancel import Cancel
from proxy.runtime.subprocesses import LONGEST, UNREAD, Child, Children, Restarts
from tests.fakes import wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX system")
SOURCE = """
import os
from time import sleep
from proxy.runtime.subprocesses import serve

if __name__ == "__main__":
    serve(lambda setup: lambda question: ANSWER)
"""
Make = Callable[..., Children]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program of the child processes."""
    path = tmp_path / "made_up_helper.py"
    command = [sys.executable, str(path)]
    monkeypatch.setattr("proxy.runtime.subprocesses.command", lambda module: command)
    return path


@pytest.fixture
def make(program: Path) -> Iterator[Make]:
    """Children whose answer is this expression: the question and their process, or another."""
    made: list[Children] = []

    def start(answer: str = "[question, os.getpid()]", **options: Any) -> Children:
        program.write_text(SOURCE.replace("ANSWER", answer))
        made.append(Children("made_up_helper", **{"start": 60.0, **options}))
        return made[-1]

    yield start
    for children in made:
        children.close()


def ask(children: Children, question: int) -> int:
    """Ask, and return the process that answered."""
    said, pid = children.ask(question, Cancel(), 60.0)
    assert said == question
    return int(pid)


def test_idle_child_ends_and_the_next_question_starts_another(make: Make) -> None:
    children = make(unload=0.05, most=1)
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


def test_first_question_of_a_child_has_time_for_its_start(make: Make) -> None:
    with pytest.raises(UpstreamTimeout):
        make(start=0.0).ask(1, Cancel(), 0.0)
    assert make().ask(1, Cancel(), 0.0)[0] == 1


def test_size_of_child_answer_is_bounded(make: Make) -> None:
    children = make("'x' * question")
    fits = LONGEST - 3  # two quotes, and the end of the line
    assert len(children.ask(fits, Cancel(), 60)) == fits
    with pytest.raises(UpstreamFault):
        children.ask(fits + 1, Cancel(), 60)


def test_excess_child_answers_end_the_child(program: Path) -> None:
    talks = "import sys\nsys.stdin.readline()\n" + "while True:\n    print(1, flush=True)\n"
    program.write_text(talks)
    child = Child("made_up_helper", None)
    wait_until(lambda: child.answers.qsize() == UNREAD + 1)  # the last one says that it ended
    child.end()
    assert [child.answers.get() for _ in range(UNREAD + 1)] == [b"1\n"] * UNREAD + [None]


def test_unrequested_answer_is_never_used_for_the_next_request(program: Path, make: Make) -> None:
    twice = "import sys\nsys.stdin.readline()\nfor line in sys.stdin:\n"
    twice += "    print(line.strip() + chr(10) + line.strip(), flush=True)\n"
    made = make()
    program.write_text(twice)
    assert made.ask([1], Cancel(), 60) == [1]
    (idle,) = made._idle
    wait_until(lambda: not idle.answers.empty())
    assert made.ask([2], Cancel(), 60) == [2]


def test_number_of_children_is_bounded(make: Make) -> None:
    made = make("(sleep(question), 'x')[1]", most=1, start=0.0)
    cancel = Cancel()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(made.ask, 60, cancel, 60)
        wait_until(lambda: made._room._value == 0)
        with pytest.raises(UpstreamTimeout, match="too many child processes"):
            made.ask(0, Cancel(), 0.05)
        left = Cancel()
        left.cancel()
        with pytest.raises(Cancelled):
            made.ask(0, left, 60)
        cancel.cancel()
        with pytest.raises(Cancelled):
            first.result(60)
    assert made.ask(0, Cancel(), 60) == "x"
    made._room.acquire()
    threading.Timer(0.1, made._room.release).start()
    with pytest.raises(UpstreamTimeout, match="after 2 seconds"):  # the wait is part of them
        made.ask(60, Cancel(), 2)


def test_pause_between_two_starts_grows_to_a_minute_however_often_they_fail() -> None:
    restarts, pauses = Restarts(), []
    for _ in range(2000):
        restarts.failed()
        pauses.append(restarts.pause)
    assert pauses[0] == 0, "it is started again at once after its first failure"
    assert 0 < pauses[1] <= 0.5
    assert 30 < pauses[-1] <= 60
