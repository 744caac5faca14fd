"""What is built once: whole or not at all, by one of those who want it at a time."""

from __future__ import annotations

import dataclasses
import hashlib
import tarfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tools import building, chatglm, servers
from tools.building import BuildError, counting, once


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


def test_build_progress_is_read_from_ninja_and_make_and_only_increases() -> None:
    said: list[str] = []
    hear = counting("x", said.append)
    for line in ("[12/200] cc a.c", "  [ 45%] Building", "[ 44%]", "[1/0]", "gcc", "[200/200]"):
        hear(line)
    assert said == ["x: building 6%", "x: building 45%", "x: building 100%"]


def ran(leave: Callable[[list[str]], None]) -> tuple[list[list[str]], Callable[..., None]]:
    """Commands instead of those that would be run; `leave` leaves what they would."""
    commands: list[list[str]] = []

    def run(command: Sequence[Any], log: Path, what: str, line: Any = None) -> None:
        commands.append([str(word) for word in command])
        leave(commands[-1])

    return commands, run


def test_wheel_of_chatglm_cpp_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(command: list[str]) -> None:
        done = Path(command[-1])
        done.mkdir()
        (done / "chatglm_cpp-1-any.whl").touch()

    commands, run = ran(leave)
    monkeypatch.setattr(chatglm, "run", run)
    monkeypatch.setattr(chatglm, "cmake", lambda log, progress: (Path("/x/cmake"), ["-G", "Ninja"]))
    assert chatglm.find() is None
    wheel = chatglm.build(lambda text: None)
    assert wheel == chatglm.find() == chatglm.build()
    assert len(commands) == 1
    assert "--require-hashes" in commands[0]


def test_server_is_found_or_built(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(command: list[str]) -> None:
        if "--build" in command:
            tree = Path(command[2])
            (tree / "bin").mkdir(parents=True)
            (tree / "bin" / building.executable("server")).write_text("1")

    commands, run = ran(leave)
    monkeypatch.setattr(servers, "run", run)
    monkeypatch.setattr(servers, "cmake", lambda log, progress: (Path("/x/cmake"), []))
    monkeypatch.setattr(servers, "fetch", lambda recipe, work, log: work)
    monkeypatch.setattr(servers, "_unpack", lambda archive, work: work)
    assert servers.find("llama-2023") is None
    binary = servers.build("llama-2023", lambda text: None)
    assert binary == servers.find("llama-2023")
    assert binary.read_text() == "1"
    assert [command[0] for command in commands] == ["/x/cmake", "/x/cmake"]


def archive(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small archive in the place of PowerInfer's, which the recipe takes for it."""
    with tarfile.open(path, "w:xz") as tar:
        member = tarfile.TarInfo("examples/server/server.cpp")
        tar.addfile(member)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    recipe = dataclasses.replace(servers.RECIPES["powerinfer"], sha256=sha256)
    monkeypatch.setitem(servers.RECIPES, "powerinfer", recipe)
    return path


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that are compiled: none is, each gives an empty server."""
    sources: list[Path] = []

    def compile_(recipe: Any, source: Path, work: Path, log: Path, progress: Any) -> Path:
        assert (source / "examples" / "server" / "server.cpp").is_file()
        sources.append(source)
        made = work / building.executable("server")
        made.touch()
        return made

    monkeypatch.setattr(servers, "_compile", compile_)
    return sources


def test_powerinfer_is_built_from_the_archive_beside_the_checkout(
    folder: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[Path]
) -> None:
    monkeypatch.delenv("POWERINFER_SRC", raising=False)
    monkeypatch.setattr(servers, "ARCHIVE", archive(folder / "it.tar.xz", monkeypatch))
    assert servers.find("powerinfer") is None
    assert servers.can_build("powerinfer")
    binary = servers.build("powerinfer", lambda text: None)
    assert binary == servers.find("powerinfer")
    (folder / "it.tar.xz").unlink()
    assert servers.find("powerinfer") == binary, "a server that is built needs its source no more"


def test_archive_with_another_digest_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[Path]
) -> None:
    path = archive(folder / "it.tar.xz", monkeypatch)
    path.write_bytes(path.read_bytes() + b"more")
    monkeypatch.setenv("POWERINFER_SRC", str(path))
    with pytest.raises(BuildError, match="is not the expected file"):
        servers.build("powerinfer", lambda text: None)
    assert not compiled


def test_powerinfer_is_built_from_a_checkout(
    folder: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[Path]
) -> None:
    source = folder / "PowerInfer" / "examples" / "server" / "server.cpp"
    source.parent.mkdir(parents=True)
    source.touch()
    monkeypatch.setenv("POWERINFER_SRC", str(folder / "PowerInfer"))
    binary = servers.build("powerinfer", lambda text: None)
    assert compiled == [folder / "PowerInfer"]
    assert source.is_file(), "the checkout stays as it is"
    monkeypatch.delenv("POWERINFER_SRC")
    assert servers.find("powerinfer") != binary, "the pinned source is another server"


def test_missing_powerinfer_source_error_says_where_to_put_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("POWERINFER_SRC", raising=False)
    monkeypatch.setattr(servers, "ARCHIVE", folder / "nowhere.tar.xz")
    assert not servers.can_build("powerinfer")
    assert servers.main(["build", "powerinfer"]) == 1
    assert "Set POWERINFER_SRC" in capsys.readouterr().err
    assert servers.main(["build", "--skip-absent", "powerinfer"]) == 0
    assert "powerinfer IS MISSING" in capsys.readouterr().err


def test_wrong_powerinfer_src_is_an_error_even_where_servers_may_be_absent(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POWERINFER_SRC", str(folder / "mistyped"))
    assert servers.main(["build", "--skip-absent", "powerinfer"]) == 1
    assert "neither a checkout of PowerInfer" in capsys.readouterr().err
