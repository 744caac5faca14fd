"""Commands beside the server."""

from __future__ import annotations

import pytest

from proxy.config import SettingsError, load, table
from proxy.config.command_line import COMMANDS, of_command, split


def test_first_word_is_the_command() -> None:
    assert split(["doctor", "--json"]) == ("doctor", ["--json"])
    assert split(["--host", "doctor"]) == ("", ["--host", "doctor"])
    assert split([]) == ("", [])


def test_own_arguments_are_parted_from_settings() -> None:
    own, settings = of_command("doctor", ["--port", "9000", "--json", "--metrics"])
    assert own.json
    assert settings == ["--port", "9000", "--metrics"]


def _help(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit, match="0"):
        load(["--help", *words], {})
    return capsys.readouterr().out


def test_help_shows_everyday_flags_groups_and_commands(capsys: pytest.CaptureFixture[str]) -> None:
    text = _help(capsys)
    assert "  --llama-api" in text and "  --queue-timeout" not in text
    for row in table():
        topic = row.group.split()[0].lower()
        assert f"  --help {topic} " in text
        assert f"  {row.flag}" in _help(capsys, topic)
    assert all(f"  {name} " in text for name in COMMANDS)
    assert len(text.splitlines()) <= 72
    with pytest.raises(SettingsError, match="--help: 'x' is not one of backends, models"):
        load(["--help", "x"], {})


def test_there_are_at_most_70_settings() -> None:
    assert len(table()) <= 70, "make a constant of one that nobody changes"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        of_command(name, ["--help"])
    assert f"slotproxy {name}" in capsys.readouterr().out
