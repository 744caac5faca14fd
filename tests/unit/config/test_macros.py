"""Macros of the models' tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.config import SettingsError, load
from proxy.config.macros import defined, filled, for_model, unknown
from proxy.config.models import read

COMMAND = "llama-server --port ${PORT}"


def value(text: Any, macros: dict[str, Any], **environ: str) -> Any:
    return filled(text, for_model("m", defined(macros), environ), environ)


def test_macro_is_filled_into_any_text() -> None:
    assert value("a ${x} b ${x}", {"x": 3}) == "a 3 b 3"
    assert value({"k": ["${x}", 1]}, {"x": "y"}) == {"k": ["y", 1]}


def test_text_that_is_a_macro_gets_its_type() -> None:
    assert value("${x}", {"x": 0.5}) == 0.5
    assert value("${x}", {"x": True}) is True
    assert value("is ${x}", {"x": True}) == "is true"


def test_macro_uses_those_before_it_even_if_a_model_replaces_one() -> None:
    shared = defined({"ctx": 4096, "args": "-c ${ctx}"})
    assert for_model("m", shared, {})["args"] == "-c 4096"
    assert for_model("m", defined({"ctx": 8}, shared), {})["args"] == "-c 8"
    assert for_model("m", defined({"a": "${b}", "b": "x"}), {})["a"] == "${b}"  # not yet defined


def test_name_of_the_model_and_environment_are_macros() -> None:
    assert value("${MODEL_ID} in ${env.HOME}", {}, HOME="/h ${x}") == "m in /h ${x}"
    with pytest.raises(ValueError, match="no variable ABSENT"):
        value("${env.ABSENT}", {})


def test_port_and_other_names_stay() -> None:
    text = "${PORT} ${PID} ${what} $HOME ${HOME:-x}"
    assert value(text, {}) == text
    assert unknown({"a": ["${PORT}", {"b": text}]}) == "what"
    assert unknown("${PORT} ${PID}") == ""


@pytest.mark.parametrize(
    ("macros", "message"),
    [
        ("x", "expected a table"),
        ({"PORT": 1}, "PORT is reserved"),
        ({"a b": 1}, "'a b': expected up to 63"),
        ({"a" * 64: 1}, "expected up to 63"),
        ({"env.X": 1}, "expected up to 63"),
        ({"a": [1]}, "a: expected a text"),
    ],
)
def test_wrong_macro_is_named(macros: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        defined(macros)


def test_model_replaces_macros_of_all() -> None:
    tables = [
        {"name": "a", "command": "${serve} -c ${ctx}"},
        {"name": "b", "command": "${serve} -c ${ctx}", "macros": {"ctx": 1}, "ttl": "${ctx}"},
    ]
    a, b = read(tables, {"serve": f"{COMMAND} -m ${{MODEL_ID}}.gguf", "ctx": 2})
    assert a.command == ("llama-server", "--port", "${PORT}", "-m", "a.gguf", "-c", "2")
    assert b.command[-3:] == ("b.gguf", "-c", "1")
    assert b.ttl == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no models are started there")
def test_file_has_macros_for_all_models(tmp_path: Path) -> None:
    file = tmp_path / "slotproxy.toml"
    file.write_text(
        "[macros]\nserve = 'llama-server --port ${PORT}'\n"
        "[[model]]\nname = 'm'\ncommand = '${serve} -m ${env.MODELS}/m.gguf'"
    )
    (model,) = load(["--config", str(file)], {"MODELS": "/models"}).model
    assert model.command[-1] == "/models/m.gguf"
    file.write_text("macros = 3\n" + file.read_text().partition("\n")[2].partition("\n")[2])
    with pytest.raises(SettingsError, match="macros: expected a table"):
        load(["--config", str(file)], {"MODELS": "/models"})
