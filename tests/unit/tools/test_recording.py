"""Recordings of a terminal as SVG: what is shown, and when."""

from __future__ import annotations

import shlex
from xml.etree import ElementTree

from tools.recording import COLUMNS, Turn, lines, svg

JSON = '{"messages": [' + ", ".join(f'{{"role": "user", "n": {n}}}' for n in range(9)) + "]}"
COMMAND = f"curl -s http://127.0.0.1:8081/v1/chat/completions -d '{JSON}' | jq -rc .id"


def test_lines_appear_one_after_the_other_and_fit() -> None:
    shown = [*lines([Turn(COMMAND, "word " * 60), Turn("true", "")])]
    assert [one.at for one in shown] == sorted(one.at for one in shown)
    assert all(len(one.text) <= COLUMNS for one in shown)


def test_broken_command_is_the_same_to_a_shell() -> None:
    typed = [one.text[2:] for one in lines([Turn(COMMAND, "")]) if one.typed]
    assert len(typed) > 2
    words = shlex.split("\n".join(typed).replace("\\\n", ""))
    assert [" ".join(word.split()) for word in words] == shlex.split(COMMAND)


def test_picture_shows_markup_as_text() -> None:
    picture = svg([*lines([Turn("echo '<b>&'", "<script>alert(1)</script>")])], 'a "title"')
    shown = "".join(ElementTree.fromstring(picture).itertext())
    assert "<script>alert(1)</script>" in shown and "<b>&" in shown
