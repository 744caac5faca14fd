"""The log for people and for programs."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re

import pytest

from proxy.runtime import logs
from proxy.runtime.logs import Lines, say


def written(form: Lines, record: logging.LogRecord) -> str:
    stream = io.StringIO()
    form.setStream(stream)
    form.handle(record)
    return stream.getvalue()


def message(text: str, level: int = logging.INFO, **fields: object) -> logging.LogRecord:
    record = logging.LogRecord("slotproxy", level, "", 0, text, None, None)
    record.created = 1767323045.9
    record.__dict__.update(fields)
    return record


def defect() -> logging.LogRecord:
    try:
        raise ValueError("a\nb")
    except ValueError as error:
        record = message("not stored", logging.ERROR)
        record.exc_info = (ValueError, error, error.__traceback__)
    return record


def test_message_in_json_is_one_object_with_time_level_and_message() -> None:
    assert json.loads(written(Lines(), message("a\nb", logging.WARNING))) == {
        "time": "2026-01-02T03:04:05Z",
        "level": "warning",
        "message": "a\nb",
    }
    text = written(Lines(), defect())
    assert text.count("\n") == 1
    assert json.loads(text)["traceback"].endswith("ValueError: a\nb")


def test_fields_of_a_message_are_in_json_alone() -> None:
    record = message("key k: create by ops", fields={"audit": {"number": 1}})
    assert json.loads(written(Lines(), record))["audit"] == {"number": 1}
    assert written(Lines("text"), record).endswith(" info  key k: create by ops\n")


def test_no_line_of_a_message_looks_like_another_message() -> None:
    text = written(Lines("text"), message("a\n12:00:00 error b\x1b[31m\r"))
    assert re.fullmatch(r"\d\d:\d\d:\d\d info  a\n {15}12:00:00 error b\\x1b\[31m\\r\n", text)
    for line in written(Lines("text"), defect()).splitlines()[1:]:
        assert line.startswith(" " * 15)


@pytest.mark.parametrize(
    ("form", "terminal", "environ", "expected"),
    [
        ("auto", True, {}, (True, True)),
        ("auto", True, {"NO_COLOR": "1"}, (True, False)),
        ("auto", True, {"TERM": "dumb"}, (True, False)),
        ("auto", False, {}, (False, False)),
        ("text", False, {}, (True, False)),
        ("json", True, {}, (False, False)),
    ],
)
def test_form_follows_the_terminal(
    form: str,
    terminal: bool,
    environ: dict[str, str],
    expected: tuple[bool, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    ends = pty.openpty() if terminal else os.pipe()
    with open(ends[0], "rb", buffering=0), open(ends[1], "w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        lines = Lines(form)
    assert (lines.is_text, lines.has_colour) == expected


def test_what_is_said_has_the_form_of_the_log_once_it_began(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    say("before")
    level = logging.root.level
    try:
        logs.begin("json", "error")
        say("listening")  # whatever the level
    finally:
        logging.root.setLevel(level)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "slotproxy: before"
    assert json.loads(second)["message"] == "listening"
