"""Commands beside the server."""

from __future__ import annotations

import shlex

import pytest

from proxy.config import SettingsError, load, table
from proxy.config.command_line import COMMANDS, EXAMPLES, VALUES, of_command, split


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
    assert len(text.splitlines()) <= 75
    with pytest.raises(SettingsError, match="--help: 'x' is not one of backends, models"):
        load(["--help", "x"], {})


def test_help_begins_with_the_commands_and_ends_with_examples(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = _help(capsys)
    assert text.index("  chat ") < text.index("  --llama-api ") < text.index("examples:")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--llama-api", "URL"),
        ("--models-dir", "DIR"),
        ("--data", "DIR"),
        ("--api-key-file", "FILE"),
        ("--llama-server", "COMMAND"),
        ("--memory", "SIZE"),
        ("--models-ttl", "SECONDS"),
        ("--port", "N"),
        ("--sampling", "NAME=VALUE"),
        ("--default-model", "NAME"),
    ],
)
def test_help_says_what_a_value_is(
    flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"  {flag} {value}" in _help(capsys, "all")


def test_every_validator_has_a_value_in_the_help() -> None:
    shown = " ".join(VALUES.values()).split()
    checks = {row.check.__name__ for row in table() if row.check is not None}
    assert checks - {*shown} == set()


def test_words_of_a_question_are_no_settings() -> None:
    own, settings = of_command("chat", ["qwen3", "what does --port do?", "--config", "x.toml"])
    assert (own.model, own.question) == ("qwen3", "what does --port do?")
    assert settings == ["--config", "x.toml"]
    with pytest.raises(SettingsError, match="--port"):
        of_command("chat", ["--port", "9000", "qwen3"])


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name])
def test_examples_of_commands_can_be_parsed(name: str) -> None:
    for example in EXAMPLES[name]:
        words, _, _ = example.partition(" < ")
        command, flags = split(shlex.split(words))
        assert command == name
        of_command(command, flags)


def test_there_are_at_most_70_settings() -> None:
    assert len(table()) <= 70, "make a constant of one that nobody changes"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        of_command(name, ["--help"])
    assert f"slotproxy {name}" in capsys.readouterr().out
