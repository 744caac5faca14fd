"""Bounds on tools and the children they run in, each at its edge."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from proxy.agent import calculator, mcp
from proxy.agent.calculator import Wrong, calculate
from proxy.errors import Cancelled, UpstreamFault, UpstreamTimeout
from proxy.runtime.cancel import Cancel
from proxy.runtime.subprocesses import LONGEST, UNREAD, Child, Children
from tests.fakes import wait_until

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX system")
SOURCE = """
from proxy.runtime.subprocesses import serve

def begin(setup):
    return lambda question: "x" * question

if __name__ == "__main__":
    serve(begin)
"""


def test_length_of_calculations_is_bounded() -> None:
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
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program of the child processes."""
    path = tmp_path / "made_up_helper.py"
    path.write_text(SOURCE)
    monkeypatch.setattr(
        "proxy.runtime.subprocesses.command", lambda module: [sys.executable, str(path)]
    )
    return path


@pytest.fixture
def children(program: Path) -> Iterator[Children]:
    made = Children("made_up_helper")
    yield made
    made.close()


@POSIX
def test_first_question_of_a_child_has_time_for_its_start(children: Children) -> None:
    with pytest.raises(UpstreamTimeout):
        children.ask(1, Cancel(), 0.0)
    patient = Children("made_up_helper", start=60.0)
    assert patient.ask(1, Cancel(), 0.0) == "x"
    patient.close()


@POSIX
def test_size_of_child_answer_is_bounded(children: Children) -> None:
    fits = LONGEST - 3  # two quotes, and the end of the line
    assert len(children.ask(fits, Cancel(), 60)) == fits
    with pytest.raises(UpstreamFault):
        children.ask(fits + 1, Cancel(), 60)


@POSIX
def test_excess_child_answers_end_the_child(program: Path) -> None:
    talks = "import sys\nsys.stdin.readline()\n" + "while True:\n    print(1, flush=True)\n"
    program.write_text(talks)
    child = Child("made_up_helper", None)
    wait_until(lambda: child.answers.qsize() == UNREAD + 1)  # the last one says that it ended
    child.end()
    assert [child.answers.get() for _ in range(UNREAD + 1)] == [b"1\n"] * UNREAD + [None]


@POSIX
def test_unrequested_answer_is_never_used_for_the_next_request(program: Path) -> None:
    twice = "import sys\nsys.stdin.readline()\nfor line in sys.stdin:\n"
    twice += "    print(line.strip() + chr(10) + line.strip(), flush=True)\n"
    program.write_text(twice)
    made = Children("made_up_helper")
    assert made.ask([1], Cancel(), 60) == [1]
    (idle,) = made._idle
    wait_until(lambda: not idle.answers.empty())
    assert made.ask([2], Cancel(), 60) == [2]
    made.close()


@POSIX
def test_number_of_children_is_bounded(program: Path) -> None:
    sleeps = SOURCE.replace('"x" * question', '(sleep(question), "x")[1]')
    program.write_text("from time import sleep\n" + sleeps)
    made = Children("made_up_helper", most=1)
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
    made.close()


def test_number_of_tool_list_pages_is_bounded() -> None:
    asked: list[object] = []

    class Endless:
        async def list_tools(self, cursor: object) -> object:
            asked.append(cursor)
            tool = SimpleNamespace(name=f"t{len(asked)}", description="", input_schema={})
            return SimpleNamespace(tools=[tool], next_cursor="more")

    found = asyncio.run(mcp._listed(Endless()))
    assert len(asked) == len(found) == mcp.MOST_PAGES
