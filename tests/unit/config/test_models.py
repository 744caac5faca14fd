"""The [[model]] tables of the settings file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.config import ModelConfig, Settings, SettingsError, load
from proxy.config.models import read, words

COMMAND = "llama-server --port ${PORT} -m x.gguf"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no models are started there")


def loaded(tmp_path: Path, text: str, *flags: str) -> Settings:
    file = tmp_path / "slotproxy.toml"
    file.write_text(text)
    return load(["--config", str(file), *flags], {})


def test_model_becomes_a_backend_of_its_name(tmp_path: Path) -> None:
    text = f"""
        [[model]]
        name = "qwen"
        command = '{COMMAND}'
        aliases = ["q", "small"]
        ttl = 300
        slots = 4
        environment = {{ CUDA_VISIBLE_DEVICES = "0" }}
        [[model]]
        name = "whisper"
        command = ["server", "--port", "${{PORT}}", "-m", "a b.gguf"]
    """
    settings = loaded(tmp_path, text)
    qwen, whisper = settings.backends
    assert (qwen.name, qwen.model, qwen.slots, qwen.address) == ("qwen", "qwen", 4, "model:qwen")
    assert qwen.launch is not None
    assert qwen.launch.command == ("llama-server", "--port", "${PORT}", "-m", "x.gguf")
    assert qwen.launch.ttl == 300.0
    assert whisper.launch is not None
    assert whisper.launch.command[-1] == "a b.gguf"
    assert settings.llama_api == ()
    assert not settings.is_default


def test_models_stand_beside_servers(tmp_path: Path) -> None:
    text = f"[[model]]\nname = 'm'\ncommand = '{COMMAND}'"
    settings = loaded(tmp_path, text, "--llama-api", "http://127.0.0.1:9")
    assert [backend.address for backend in settings.backends] == ["http://127.0.0.1:9", "model:m"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"command": COMMAND}, "1: .*missing required field `name`"),
        ({"name": "m"}, "'m': .*missing required field `command`"),
        ({"name": "m", "command": ""}, "'m': command: expected a program"),
        ({"name": "m", "command": "server --port 80"}, r"must contain \$\{PORT\}"),
        ({"name": "m", "command": "server '${PORT}"}, "command: No closing quotation"),
        ({"name": "m", "command": COMMAND, "ttl": -1}, r">= 0.*ttl"),
        ({"name": "m", "command": COMMAND, "tll": 1}, "unknown field `tll`"),
        ({"name": "m", "command": COMMAND, "check": "health"}, "check: expected a path"),
        ({"name": "m\n", "command": COMMAND}, "control character"),
        ({"name": "m" * 201, "command": COMMAND}, "length <= 200"),
        ({"name": "m", "command": [*words(COMMAND), "\0"]}, "NUL"),
        ({"name": "m", "command": COMMAND, "environment": {"A=B": "c"}}, "environment: 'A=B'"),
    ],
)
def test_wrong_model_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read([fields])


def test_names_and_aliases_are_unique() -> None:
    one = {"name": "a", "command": COMMAND, "aliases": ["b"]}
    with pytest.raises(ValueError, match="two models have the name or alias 'b'"):
        read([one, {"name": "b", "command": COMMAND}])


def test_tables_are_needed(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"slotproxy.toml: model expected \[\[model\]\] tables"):
        loaded(tmp_path, "model = 'x'")


def test_port_may_be_in_the_environment_alone() -> None:
    (model,) = read([{"name": "m", "command": "serve", "environment": {"PORT": "${PORT}"}}])
    assert model.command == ("serve",)


def test_several_processes_are_refused(tmp_path: Path) -> None:
    text = f"[[model]]\nname = 'm'\ncommand = '{COMMAND}'"
    with pytest.raises(SettingsError, match="model: models are started by a single process"):
        loaded(tmp_path, text, "--state", "redis://127.0.0.1:1/0")


def test_command_of_several_lines_is_split_like_a_shells() -> None:
    assert words("a \\\n  --b 'c d' \\\n -e") == ("a", "--b", "c d", "-e")


def test_command_and_environment_are_not_shown() -> None:
    assert repr(ModelConfig(name="m", command=("a", "--api-key", "k"))) == "ModelConfig('m')"
