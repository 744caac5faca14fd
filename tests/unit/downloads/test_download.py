"""A download, as its parent sees it, with a child that a test writes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from proxy.app import commands
from proxy.config import Settings
from proxy.downloads import download
from proxy.downloads.child import Job, Said
from proxy.downloads.choice import HubFile, HubModel, Reference
from proxy.downloads.download import Download
from proxy.errors import BadRequest, Unsupported, UpstreamFault
from proxy.runtime import subprocesses

PATIENCE = 60.0
LIST = (
    b'{"models": [{"name": "m-Q4_0", "quantization": "Q4_0",'
    b' "files": [{"path": "m-Q4_0.gguf", "size": 100}]}], "chosen": "m-Q4_0", "size": 100'
)
JOB = Job(Reference("a/b"), "/nowhere")


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The program that runs instead of the child."""
    program = tmp_path / "child.py"
    monkeypatch.setattr(download, "is_installed", lambda: True)
    monkeypatch.setattr(
        subprocesses, "command", lambda module: [sys.executable, "-I", "-S", str(program)]
    )
    return program


def says(child: Path, *lines: bytes, then: str = "") -> None:
    child.write_text(
        f"import sys\nsys.stdin.readline()\nsys.stdout.buffer.write({b''.join(lines)!r})\n"
        f"sys.stdout.flush()\n{then}\n"
    )


@pytest.mark.parametrize("line", [b"", b"no json\n", b'{"status": "x"}\n', b'{"models": '])
def test_a_child_that_breaks_off_is_an_error(child: Path, line: bytes) -> None:
    says(child, line)
    with pytest.raises(UpstreamFault, match="broke off"):
        Download(JOB).wait()


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "is_installed", lambda: False)
    with pytest.raises(Unsupported, match="extra pull"):
        Download(JOB)


def test_its_name_is_that_of_the_command() -> None:
    assert download.shown(Reference("a/b", "Q8_0")) == "hf:a/b:Q8_0"
    assert download.shown(Reference("a/b")) == "hf:a/b"


GIB = 1 << 30


@pytest.mark.parametrize(
    ("memory", "cards", "room"),
    [(0, (), 0), (10 * GIB, (), 8 * GIB), (GIB, (10 * GIB, 20 * GIB), 16 * GIB)],
)
def test_room_is_what_the_estimate_of_a_load_leaves(
    memory: int, cards: tuple[int, ...], room: int
) -> None:
    assert download.room(memory, cards) == room


def test_table_shows_sizes_and_what_does_not_fit() -> None:
    listed = [
        HubModel(f"m-{name}", name, (HubFile(f"m-{name}.gguf", size * 10**9),))
        for name, size in {"Q4_0": 4, "Q8_0": 8}.items()
    ]
    said = Said(models=tuple(listed), chosen="m-Q4_0", context=4096)
    assert commands.table(said, 5 * 10**9) == [
        "* Q4_0            4.0 GB  m-Q4_0",
        "  Q8_0            8.0 GB  m-Q8_0  does not fit --memory or the cards",
        "made for 4096 tokens of context",
    ]


def test_command_needs_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadRequest, match="--models-dir DIR"):
        commands.pull(Settings(), "hf:a/b")
    monkeypatch.setattr(commands, "is_installed", lambda: False)
    with pytest.raises(BadRequest, match=r"extra pull: .*\[pull\]"):
        commands.pull(Settings(models_dir="/nowhere"), "hf:a/b")


def test_command_downloads_and_says_where(
    child: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(commands, "is_installed", lambda: True)
    says(child, LIST + b"}\n", b'{"done": true}\n')
    text = commands.pull(Settings(models_dir=str(tmp_path)), "hf:a/b")
    assert text.startswith(f"m-Q4_0 is in {tmp_path}: ")
    assert "* Q4_0" in capsys.readouterr().out
