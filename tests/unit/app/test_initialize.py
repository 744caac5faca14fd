"""What `slotproxy init` finds, and the settings file that it writes."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.__main__ import main
from proxy.app import discovery, initialize
from proxy.app.discovery import Card, Files, Found, Server
from proxy.config import Settings, load
from proxy.config.data_folder import data_folder
from tools.processes import held_port

from .conftest import Serving

FILES = Files(Path("m"), {"a": ("-m", "a.gguf")}, False)
NOTHING = Found((), (), "", 0)
LLAMA = Server("http://127.0.0.1:8080", "llamacpp", "llama-server", ("qwen3-4b",))
OLD = Server("http://127.0.0.1:9931", "llamacpp", "server of llama.cpp or PowerInfer")
OLLAMA = Server("http://127.0.0.1:11434", "openai", "Ollama", ("qwen3:4b", "nomic"))
ITSELF = Server("http://127.0.0.1:5000", "slotproxy", "another slotproxy")
OTHER = Server("http://127.0.0.1:1234", "", "a program that is no model server")


def write(name: str, machine: Found = NOTHING, agrees: bool = True) -> str:
    return initialize.write(name, lambda question: agrees, {}, lambda environ, home: machine)


def model(folder: Path, name: str, magic: bytes = b"GGUF") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.gguf"
    path.write_bytes(magic + bytes(1 << 17))
    return path


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Found], Settings]:
    """The settings in the file that is written for a machine."""
    monkeypatch.chdir(tmp_path)

    def written(machine: Found) -> Settings:
        write("made.toml", machine)
        return load(["--config", "made.toml"], {})

    return written


# -- servers ---------------------------------------------------------------------------------------


def v1_models(*ids: Any) -> dict[str, Any]:
    return {"/v1/models": {"data": [{"id": name} for name in ids]}}


@pytest.mark.parametrize(
    ("answers", "kind", "names"),
    [
        (
            {"/props": {"default_generation_settings": {}}, **v1_models("/models/qwen3-4b.gguf")},
            "llamacpp",
            ("qwen3-4b",),
        ),
        ({"/props": {"role": "router"}, **v1_models("a", "b")}, "llamacpp", ("a", "b")),
        ({"/props": {"user_name": "", "assistant_name": ""}}, "llamacpp", ()),  # of 2023
        ({"/api/version": {"version": "0.9"}, **v1_models("qwen3:4b")}, "openai", ("qwen3:4b",)),
        (v1_models("org/model", "a\nb"), "openai", ("org/model",)),  # LM Studio
        ({"/livez": {"status": "ok"}, **v1_models("x")}, "slotproxy", ()),
        ({}, "", ()),
        ({"/props": [], "/v1/models": {"data": "x"}, "/livez": 3}, "", ()),
    ],
)
def test_servers_are_told_apart(
    answers: dict[str, Any], kind: str, names: tuple[str, ...], serving: Serving, tmp_path: Path
) -> None:
    port = serving(answers)
    (server,) = discovery.look({}, tmp_path, [port]).servers
    assert (server.url, server.kind, server.models) == (f"http://127.0.0.1:{port}", kind, names)


def test_port_without_a_server_is_left_out(tmp_path: Path) -> None:
    assert discovery.look({}, tmp_path, [held_port()]).servers == ()


# -- files -----------------------------------------------------------------------------------------


def test_models_are_found_in_usual_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model(tmp_path / "models", "near")
    model(tmp_path / "models" / "seeing", "seeing")
    model(tmp_path / "models" / "seeing", "mmproj-f16")
    hub = tmp_path / "hf" / "hub" / "models--org--name" / "snapshots" / "abc"
    model(hub, "far-00001-of-00002")
    model(hub, "far-00002-of-00002")
    model(tmp_path / ".lmstudio" / "models", "no-model", b"HTML")
    machine = discovery.look({"HF_HOME": str(tmp_path / "hf")}, tmp_path, [held_port()])
    near, far = machine.files
    assert (near.folder, {*near.models}, near.flat) == (
        tmp_path / "models",
        {"near", "seeing"},
        True,
    )
    assert "--mmproj" in near.models["seeing"]
    assert ({*far.models}, far.flat) == ({"far"}, False)


def test_llama_server_is_found_on_the_path(tmp_path: Path) -> None:
    program = tmp_path / "llama-server"
    program.touch(mode=0o755)
    assert discovery.look({"PATH": str(tmp_path)}, tmp_path, [1]).llama_server == str(program)
    assert discovery.look({"PATH": "/nowhere"}, tmp_path, [1]).llama_server == ""


def program(folder: Path, name: str, prints: str) -> None:
    (folder / "printed").write_text(prints, encoding="utf-8")
    path = folder / name
    path.write_text(f"#!/bin/sh\n/bin/cat {shlex.quote(str(folder / 'printed'))}\n")
    path.chmod(0o755)


ROCM = {
    "card0": {"VRAM Total Memory (B)": "17163091968", "Card Series": "Radeon RX 7800 XT"},
    "card1": {"VRAM Total Memory (B)": "N/A"},
    "system": {"Driver version": "6.8"},
}


@pytest.mark.skipif(os.name == "nt", reason="a script is no program there")
@pytest.mark.parametrize(
    ("name", "prints", "memory"),
    [
        ("nvidia-smi", "24564, NVIDIA GeForce RTX 4090\n[N/A], NVIDIA GB10\n", [24564 << 20]),
        ("nvidia-smi", "No devices were found\n", []),
        ("rocm-smi", json.dumps(ROCM), [17163091968]),
        ("rocm-smi", "WARNING: no AMD card", []),
        ("rocm-smi", "[1]", []),
    ],
)
def test_graphics_cards_are_those_of_their_program(
    name: str, prints: str, memory: list[int], tmp_path: Path
) -> None:
    program(tmp_path, name, prints)
    cards = discovery.look({"PATH": str(tmp_path)}, tmp_path, [1]).cards
    assert [card.memory for card in cards] == memory
    assert {card.program for card in cards} <= {name}


@pytest.mark.parametrize(
    ("cards", "memory", "tokens"),
    [((), 0, 4096), ((), 8, 8192), ((), 64, 32768), ((8,), 64, 8192), ((12, 12), 8, 16384)],
)
def test_context_is_proposed_by_the_memory(
    cards: tuple[int, ...],
    memory: int,
    tokens: int,
    tmp_path: Path,
    loaded: Callable[[Found], Settings],
) -> None:
    near = model(tmp_path / "models", "near")
    files = (Files(tmp_path / "models", {"near": ("-m", str(near))}, True),)
    listed = tuple(Card("RTX", size << 30, "nvidia-smi") for size in cards)
    settings = loaded(Found((), files, "/usr/bin/llama-server", memory << 30, listed))
    assert settings.llama_server == f"/usr/bin/llama-server -c {tokens}"
    assert settings.gpu_memory == ""  # nvidia-smi is asked at each start


def test_memory_of_cards_without_nvidia_smi_is_in_the_file(
    tmp_path: Path, loaded: Callable[[Found], Settings]
) -> None:
    near = model(tmp_path / "models", "near")
    files = (Files(tmp_path / "models", {"near": ("-m", str(near))}, True),)
    card = Card("Radeon", 16 << 30, "rocm-smi")
    settings = loaded(Found((), files, "/usr/bin/llama-server", 64 << 30, (card, card)))
    assert settings.gpu_memory_bytes == (16 << 30, 16 << 30)


def test_data_are_in_the_folder_that_the_file_names(loaded: Callable[[Found], Settings]) -> None:
    assert loaded(NOTHING).data == str(data_folder())


ODD = ["caf\udce9/x/m", "b\x01", "a\x7fb/x/m", "m${FOO}", "a/x/m${env.HOME}", "m" * 201]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize("name", ODD, ids=range(len(ODD)))
def test_odd_names_of_files_are_left_out(
    name: str, tmp_path: Path, loaded: Callable[[Found], Settings]
) -> None:
    model(tmp_path / "models", "near")
    odd = tmp_path / "models" / f"{name}.gguf"
    model(odd.parent, odd.stem)
    program = tmp_path / "llama-server"
    program.touch(mode=0o755)
    machine = discovery.look({"PATH": str(tmp_path)}, tmp_path, [1])
    assert [{*files.models} for files in machine.files] == [{"near"}]
    assert "near" in [table.name for table in loaded(machine).model]


# -- the file --------------------------------------------------------------------------------------


def test_file_names_the_servers_that_were_found(loaded: Callable[[Found], Settings]) -> None:
    settings = loaded(Found((LLAMA, OLD, OLLAMA, ITSELF, OTHER), (), "", 0))
    urls = ["http://127.0.0.1:8080", "http://127.0.0.1:9931", "http://127.0.0.1:11434/v1"]
    assert [backend.url for backend in settings.backends] == urls
    assert [backend.kind for backend in settings.backends][2] == "openai"


def test_file_without_anything_found_has_the_defaults(loaded: Callable[[Found], Settings]) -> None:
    settings = loaded(NOTHING)
    assert settings.is_default
    assert settings.llama_api == Settings().llama_api


def test_models_and_llama_server_become_models_on_demand(
    tmp_path: Path, loaded: Callable[[Found], Settings]
) -> None:
    folder = tmp_path / 'odd "name"'
    near = model(folder, "near")
    far = model(tmp_path / "hub", "far")
    files = (
        Files(folder, {"near": ("-m", str(near))}, True),
        Files(tmp_path / "hub", {"far": ("-m", str(far))}, False),
    )
    settings = loaded(Found((), files, "/usr/bin/llama-server", 16 << 30))
    assert settings.models_dir == str(folder)
    assert {table.name for table in settings.model} == {"near", "far"}
    assert settings.memory == "12GiB"


def test_without_llama_server_models_are_comments(
    tmp_path: Path, loaded: Callable[[Found], Settings]
) -> None:
    near = model(tmp_path / "models", "near")
    files = (
        Files(tmp_path / "models", {"near": ("-m", str(near))}, True),
        Files(tmp_path / "hub", {"far": ("-m", "/far.gguf")}, False),
    )
    assert loaded(Found((LLAMA,), files, "", 0)).model == ()
    assert '# name = "far"' in (tmp_path / "made.toml").read_text("utf-8")


def test_every_commented_setting_loads_once_its_mark_is_removed(tmp_path: Path) -> None:
    """A user removes the # and nothing else."""
    (tmp_path / "keys").write_text("ops sk-ops-0123456789\n", encoding="utf-8")
    model(tmp_path / "models", "near")
    files = (Files(tmp_path / "models", {"near": ()}, True),)
    lines = initialize.text(Found((), files, "", 8 << 30), "x.toml").splitlines()
    settings = [line for line in lines if " = " in line and "# model =" not in line]
    assert len(settings) >= 9
    text = "\n".join(line.removeprefix("# ") for line in settings)
    file = tmp_path / "x.toml"
    text = text.replace('"keys"', json.dumps(str(tmp_path / "keys")))
    file.write_text(text, encoding="utf-8")
    assert load(["--config", str(file)], {}).admins == ("ops",)


def test_existing_file_is_replaced_only_if_the_user_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "slotproxy.toml"
    file.write_text("port = 9000\n", encoding="utf-8")
    with pytest.raises(initialize.InitError, match="--force"):
        write("slotproxy.toml", agrees=False)
    assert main(["init"]) == 1  # there is no terminal to ask on
    assert "--force" in capsys.readouterr().err
    assert file.read_text("utf-8") == "port = 9000\n"
    assert write("slotproxy.toml")
    assert "port = 8081" in file.read_text("utf-8")
    if os.name != "nt":
        assert file.stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.iterdir()] == ["slotproxy.toml"]


def test_file_that_would_not_load_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = (Files(tmp_path / "gone", {"near": ("-m", "x")}, True),)
    machine = Found((), files, "/bin/llama-server", 0)
    with pytest.raises(initialize.InitError, match="nothing was written") as raised:
        write("x.toml", machine)
    assert ".init-" not in str(raised.value)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("machine", "missing", "cure"),
    [
        (Found((), (FILES,), "", 0), "llama-server is not on the PATH", "remove the #"),
        (Found((), (FILES,), "/bin/llama-server", 0), "", ""),
        (Found((), (), "/bin/llama-server", 0), "no GGUF file", "into the folder models"),
        (Found((LLAMA,), (), "/bin/llama-server", 0), "", ""),
    ],
)
def test_what_is_missing_is_said_with_what_to_do(
    machine: Found, missing: str, cure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = write("x.toml", machine)
    assert ("missing:" in output) == bool(missing)
    assert missing in output and cure in output


def test_next_step_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output = write("x.toml")
    assert "found no model server" in output
    assert "slotproxy doctor --config x.toml" in output


@pytest.mark.skipif(os.name == "nt", reason="Windows asks for a right to make links")
@pytest.mark.parametrize("exists", [True, False])
def test_link_is_replaced_only_if_the_user_agrees_and_stays(exists: bool, tmp_path: Path) -> None:
    link, real = tmp_path / "link.toml", tmp_path / "real.toml"
    link.symlink_to(real)
    if exists:
        real.write_text("port = 9000\n", encoding="utf-8")
    with pytest.raises(initialize.InitError, match="--force"):
        write(str(link), agrees=False)
    write(str(link))
    assert link.is_symlink()
    assert "port = 8081" in real.read_text("utf-8")


@pytest.mark.parametrize("name", ["a\nb.toml", "caf\udce9.toml"])
def test_name_that_cannot_be_printed_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(initialize.InitError, match="name another file"):
        write(str(tmp_path / name))
