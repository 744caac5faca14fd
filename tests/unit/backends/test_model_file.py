"""Templates of servers that report none, from the files that they name."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from proxy.backends.driver import Capabilities
from proxy.backends.gguf import with_template
from tests.gguf_files import gguf

HERE = "http://127.0.0.1:8080"
OLD = Capabilities(dialect="2023")
FIELDS = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ("<s>", "</s>"),
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.chat_template": "{{ messages }}",
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(FIELDS))
    return path


@pytest.mark.parametrize(
    "url", [HERE, "http://localhost:1", "http://[::1]:8080", "https://127.8.1.1/prefix"]
)
def test_template_of_the_named_file_is_found(
    url: str, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    caps = with_template(OLD, url, {"model": str(model)})
    assert (caps.template, caps.template_from) == ("{{ messages }}", "file")
    assert (caps.bos_token, caps.eos_token, caps.adds_bos) == ("<s>", "</s>", False)
    (line,) = caplog.messages
    assert url in line and str(model) in line


@pytest.mark.parametrize(
    "answer",
    [
        lambda path: {"model_path": path},
        lambda path: {"model": "alias", "default_generation_settings": {"model": path}},
    ],
)
def test_file_is_named_in_any_of_the_answers(answer: Any, model: Path) -> None:
    assert with_template(OLD, HERE, {}, answer(str(model))).template_from == "file"


@pytest.mark.parametrize("url", ["http://10.0.0.1:8080", "http://model.example", "http://[::2]"])
def test_file_of_another_machine_is_not_looked_for(url: str, model: Path) -> None:
    assert with_template(OLD, url, {"model": str(model)}) is OLD


def test_template_that_the_server_reports_is_kept(model: Path) -> None:
    told = Capabilities(dialect="llama-server", template="{{ own }}")
    assert with_template(told, HERE, {"model": str(model)}) is told


def test_only_a_readable_gguf_file_of_this_machine_is_read(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("root:x:0:0")
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "bare.gguf").write_bytes(gguf({"general.architecture": "llama"}))
    names = ["", "unknown", "\0", "x" * 5000, "/dev/zero", str(tmp_path), 7, None, ["a"]]
    names += [str(tmp_path / f"{name}.gguf") for name in ("text", "pipe", "bare", "absent")]
    for name in names:
        assert with_template(OLD, HERE, {"model": name}) is OLD
