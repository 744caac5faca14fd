"""What is built once: whole or not at all, by one of those who want it at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tools import building, servers
from tools.building import BuildError, once


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLOTPROXY_CACHE", str(tmp_path))
    monkeypatch.setattr(building, "compiler", lambda: None)
    return tmp_path


def test_concurrent_builds_build_once(folder: Path) -> None:
    begun, waits = threading.Event(), threading.Event()
    made: list[Path] = []
    said: list[str] = []

    def make(work: Path, log: Path) -> Path:
        made.append(work)
        begun.set()
        assert waits.wait(60)
        log.write_text("all of it")
        (work / "done").mkdir()
        (work / "done" / "binary").write_text("1")
        return work / "done"

    def progress(text: str) -> None:
        said.append(text)
        waits.set()  # the second has come

    def build() -> None:
        once(folder / "a", "a", make, progress)

    threads = [threading.Thread(target=build)]
    threads[0].start()
    assert begun.wait(60)
    threads.append(threading.Thread(target=build))
    threads[1].start()
    for one in threads:
        one.join(60)
    assert len(made) == 1
    assert said == ["another process is building it: waiting", "a: ready"]
    assert (folder / "a" / "binary").read_text() == "1"
    assert sorted(one.name for one in folder.iterdir()) == ["a", "a.lock"], "nothing else is left"


def test_failed_build_leaves_only_its_log(folder: Path) -> None:
    def make(work: Path, log: Path) -> Path:
        log.write_text("why")
        raise BuildError("no")

    with pytest.raises(BuildError):
        once(folder / "a", "a", make, print)
    assert sorted(one.name for one in folder.iterdir()) == ["a.lock", "a.log"]


def test_download_needs_no_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_here() -> None:
        raise BuildError("no C++ compiler found")

    def make(work: Path, log: Path) -> Path:
        (work / "done").mkdir()
        return work / "done"

    monkeypatch.setattr(building, "compiler", none_here)
    with pytest.raises(BuildError, match="no C"):
        once(folder / "built", "built", make, print)
    once(folder / "fetched", "fetched", make, print, needs_compiler=False)
    assert (folder / "fetched").is_dir()


def ran(leave: Callable[[list[str]], None]) -> tuple[list[list[str]], Callable[..., None]]:
    """Commands instead of those that would be run; `leave` leaves what they would."""
    commands: list[list[str]] = []

    def run(command: Sequence[Any], log: Path, what: str, line: Any = None) -> None:
        commands.append([str(word) for word in command])
        leave(commands[-1])

    return commands, run


def test_archive_with_another_digest_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(command: list[str]) -> None:
        (folder / "llama_cpp_python-0.2.20.tar.gz").write_bytes(b"another file")

    _, run = ran(leave)
    monkeypatch.setattr(servers, "run", run)
    with pytest.raises(BuildError, match="is not the expected file"):
        servers.fetch(servers.RECIPES["llama-2023"], folder, folder / "log")


def test_powerinfer_is_the_program_that_the_variable_names(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("POWERINFER_SERVER", raising=False)
    assert servers.find("powerinfer") is None
    for do in ("find", "build"):
        assert servers.main([do, "powerinfer"]) == 1
        assert "POWERINFER_SERVER is not set" in capsys.readouterr().err
    program = folder / "server"
    monkeypatch.setenv("POWERINFER_SERVER", str(program))
    for _ in range(2):  # it is not there, and then it is no program
        assert servers.main(["find", "powerinfer"]) == 1
        assert "which is no program" in capsys.readouterr().err
        program.touch(0o600)
    program.chmod(0o700)
    assert servers.find("powerinfer") == servers.build("powerinfer") == program
