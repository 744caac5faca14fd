"""Formats of tool calls from installed packages (entry points of the group `slotproxy.formats`)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from proxy.app.prompter_registry import FORMATS, known_formats
from proxy.config import SettingsError
from proxy.prompting.formats import SPECIAL
from tests.fakes import ScriptedDriver, client, say

PACKAGES = Path(__file__).parents[2] / "packages"
TEMPLATE = """
{%- for tool in tools or [] %}{{ tool | tojson }}
{% endfor %}{% for message in messages %}<|{{ message.role }}|>{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}★CALL {{ call.function.name | upper }}★
{{- call.function.arguments | tojson }}★END★{% endfor %}<|end|>{% endfor %}<|assistant|>"""
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A template of the example's format, whose package is installed."""
    monkeypatch.syspath_prepend(str(PACKAGES / "star_calls"))
    path = tmp_path / "star.jinja"
    path.write_text(TEMPLATE, "utf-8")
    return str(path)


@pytest.mark.parametrize("stream", [False, True])
def test_calls_in_an_installed_format_reach_the_client(template: str, stream: bool) -> None:
    driver = ScriptedDriver(say("Let me look. ★CA", 'LL GET_WEATHER★{"city": "Os', 'lo"}★END★'))
    answer = client(driver, chat_template=template).post(
        "/v1/chat/completions",
        json={
            "messages": [{"role": "user", "content": "Weather?"}],
            "tools": [TOOL],
            "stream": stream,
        },
    )
    text = answer.get_data(as_text=True)
    assert answer.status_code == 200, text
    assert '"name":"get_weather"' in text and "tool_calls" in text
    assert "Let me look." in text and "★" not in text


def package(folder: Path, source: str) -> None:
    meta = folder / "wrong_format-1.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: wrong-format\nVersion: 1\n")
    (meta / "entry_points.txt").write_text(f"[{FORMATS}]\nwrong = wrong_format:FORM\n")
    (folder / "wrong_format.py").write_text(source)


@pytest.mark.parametrize(
    ("source", "fault"),
    [("FORM = 1", "is no CallFormat"), ("FORM = nothing", "cannot be loaded: name 'nothing'")],
)
def test_what_is_no_format_is_told_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, fault: str
) -> None:
    package(tmp_path, source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wrong_format", raising=False)
    with pytest.raises(SettingsError, match=rf"the format wrong \(entry point .*\) {fault}"):
        known_formats()


def test_without_packages_the_formats_are_ours() -> None:
    assert known_formats() == SPECIAL
