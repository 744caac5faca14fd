"""The last lines of a model's server."""

from __future__ import annotations

from proxy.hosting.process import MAX_LINES, SHOWN, ModelLog


def test_lines_that_clients_see_are_bounded() -> None:
    log = ModelLog()
    log.begin()
    for _ in range(SHOWN + 10):
        log.add(b"word " * 100)
    assert len(log.end()) == SHOWN
    for number in range(SHOWN + 1):
        log.add(b"%d" % number)
    assert log.end() == [str(number) for number in range(1, SHOWN + 1)]


def test_clients_see_no_lines_of_an_earlier_process() -> None:
    """These may contain prompts: a process that failed to start has seen none."""
    log = ModelLog()
    log.begin()
    log.add(b"the prompt of somebody")
    log.begin()
    assert log.end() == []
    log.add(b"cannot load")
    assert log.end() == ["cannot load"]
    assert "somebody" in log.text()


def test_lines_after_a_number_are_those_that_are_still_kept() -> None:
    log = ModelLog()
    assert log.after(0) == (0, [])
    for number in range(3):
        log.add(b"%d" % number)
    assert log.after(0) == (3, ["0", "1", "2"])
    assert log.after(2) == (3, ["2"])
    assert log.after(3) == log.after(9) == (3, [])
    for number in range(MAX_LINES):
        log.add(b"%d" % number)
    count, lines = log.after(1)
    assert (count, len(lines), lines[0]) == (MAX_LINES + 3, MAX_LINES, "0")
