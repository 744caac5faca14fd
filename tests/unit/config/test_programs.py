"""Programs of models that do not exist."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from proxy.config import SettingsError, load
from proxy.config.checks import programs


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "m.gguf").write_bytes(b"GGUF")
    return tmp_path / "models"


@pytest.mark.parametrize(
    ("server", "trouble"),
    [
        ("/no/llama-server -c 4096", "/no/llama-server does not exist"),
        ("no-such-llama-server", "no-such-llama-server is not in PATH"),
        ("/dev/null", "/dev/null is not an executable file"),
    ],
)
def test_missing_llama_server_is_refused_at_the_start(
    models: Path, server: str, trouble: str
) -> None:
    flags = ["--models-dir", str(models), "--llama-server", server]
    with pytest.raises(SettingsError, match=f"^--llama-server: {trouble}: "):
        programs(load(flags, {}))


def test_missing_program_of_one_model_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "slotproxy.toml"
    file.write_text(
        f"[[model]]\nname = 'a'\ncommand = '{sys.executable} ${{PORT}}'\n"
        "[[model]]\nname = 'b'\ncommand = './server ${PORT}'\nfolder = '/tmp'"
    )
    (warning,) = programs(load(["--config", str(file)], {}))
    assert warning.startswith("model b: ./server does not exist: write its path")
