"""llama-server's models.ini, read as it is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from proxy.config import SettingsError, load
from proxy.config.model_presets import read

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no models are started there")

WHOLE = """
version = 1

; for all models
[*]
c = 8192
n-gpu-layers = 8
jinja = true

[org/Model-GGUF:Q8_0]
n-gpu-layers = 99
jinja = off
no-mmap = true
flash-attn = on
LLAMA_ARG_CACHE_RAM = 0
load-on-startup = true
stop-timeout = 30
alias = model, other
port = 1234

# a file
[own]
model = /models/a draft.gguf
model = /models/own.gguf
c = 4096
temp = 0.7
no-warmup = false
ctk = q8_0
np = 1
sleep-idle-seconds = 60
"""
END = ("--host", "127.0.0.1", "--port", "${PORT}")


def test_sections_are_models_and_keys_are_flags(tmp_path: Path) -> None:
    file = tmp_path / "models.ini"
    file.write_text(WHOLE)
    file.chmod(0o600)
    settings = load(["--config", str(file), "--llama-server", "/opt/llama-server -v"], {})
    named, own = settings.model
    start = ("/opt/llama-server", "-v")
    assert named.command == (
        *(*start, *END, "-hf", "org/Model-GGUF:Q8_0", "-c", "8192", "--n-gpu-layers", "99"),
        *("--no-jinja", "--no-mmap", "--flash-attn", "on"),
    )
    assert own.command == (
        *(*start, *END, "--n-gpu-layers", "8", "--jinja", "--model", "/models/own.gguf"),
        *("-c", "4096", "--temp", "0.7", "--warmup", "-ctk", "q8_0", "-np", "1"),
    )
    assert named.environment == {"LLAMA_ARG_CACHE_RAM": "0"}
    assert (named.preload, named.stop_timeout, named.aliases) == (True, 30, ("model", "other"))
    assert (own.preload, own.ttl) == (False, 60)
    assert settings.warnings == (f"{file}: set by slotproxy and ignored: port",)


def test_sections_add_to_the_models_of_a_folder(tmp_path: Path) -> None:
    made = tmp_path / "models"
    made.mkdir()
    for name in "ab":
        (made / f"{name}.gguf").touch()
    file = tmp_path / "models.ini"
    file.write_text("[*]\nc = 8192\n[b]\nc = 4096\nload-on-startup = true\n")
    flags = ("--models-dir", str(made), "--llama-server", "s", "--models-ttl", "60")
    b, a = load(["--config", str(file), *flags], {}).model
    assert a.command == ("s", "-m", f"{made}/a.gguf", *END, "-c", "8192")
    assert b.command == ("s", "-m", f"{made}/b.gguf", *END, "-c", "4096")
    assert [(model.preload, model.ttl) for model in (a, b)] == [(False, 60), (True, 60)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a .section. for each model"),
        ("[*]\nc = 1", "expected a .section. for each model"),
        ("[a]\nc = 1", r"\[a\]: set model or hf-repo, or put"),
        ("version = 2", "line 1: expected version = 1"),
        ("[a]\nmodel", "line 2: expected KEY = VALUE"),
        ("[a]\n--model = x", "line 2: expected KEY = VALUE"),
        ("[a]\nm = x\nload-on-startup = maybe", "load-on-startup: expected true or false"),
        ("[a]\nm = x\nstop-timeout = soon", "stop-timeout: expected a number"),
    ],
)
def test_wrong_file_says_where(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(text, "llama-server")


def test_message_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "models.ini"
    file.write_text("[a]")
    with pytest.raises(SettingsError, match=r"models.ini: \[a\]: set model or hf-repo"):
        load(["--config", str(file)], {})
