"""`slotproxy backup` and `slotproxy restore`, with databases that are in use meanwhile."""

from __future__ import annotations

import io
import os
import sqlite3
import tarfile
import threading
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from proxy.__main__ import main
from proxy.app import commands
from proxy.config import Settings
from proxy.store.conversations import ConversationStore
from proxy.store.database import Database
from proxy.store.revisions import NEWEST


def say_yes(question: str) -> bool:
    return True


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with a conversation and an index."""
    folder = tmp_path / "data"
    database = Database(f"sqlite:///{folder / 'slotproxy.db'}")
    database.upgrade()
    ConversationStore(database).create("ann", "the first", {})
    database.close()
    with closing(sqlite3.connect(folder / "index.db")) as index, index:
        index.execute("create table term (word text)")
        index.execute("insert into term values ('lantern')")
    return folder


@pytest.fixture
def flags(data: Path, tmp_path: Path) -> list[str]:
    """Those of `backup`, which has been run, and of `restore`."""
    flags = [str(tmp_path / "b.tar.gz"), "--data", str(data)]
    assert main(["backup", *flags]) == 0
    return flags


def titles(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "slotproxy.db")) as database:
        return [row[0] for row in database.execute("select title from conversation")]


def test_restored_data_equal_those_of_the_backup(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "backup.tar.gz"
    assert main(["backup", str(file), "--data", str(data)]) == 0
    assert f"{file}: index.db and slotproxy.db, " in capsys.readouterr().out
    new = tmp_path / "new"
    assert main(["restore", str(file), "--data", str(new)]) == 0
    assert titles(new) == ["the first"]
    with closing(sqlite3.connect(new / "index.db")) as index:
        assert index.execute("select word from term").fetchall() == [("lantern",)]
    assert sorted(path.name for path in new.iterdir()) == ["index.db", "slotproxy.db"]
    if os.name != "nt":
        assert [path.stat().st_mode & 0o077 for path in (file, new, *new.iterdir())] == [0] * 4


def test_backup_is_one_snapshot_while_a_writer_goes_on(data: Path, tmp_path: Path) -> None:
    """Each transaction adds two rows, so a copy with an odd number is torn."""
    ended = threading.Event()
    with closing(sqlite3.connect(data / "slotproxy.db")) as made, made:
        made.execute("create table pair (number int, filling text)")

    def write() -> None:
        with closing(sqlite3.connect(data / "slotproxy.db", timeout=30)) as database:
            number = 0
            while not ended.is_set():
                with database:
                    for _ in range(2):
                        row = (number, "x" * 5000)
                        database.execute("insert into pair values (?, ?)", row)
                number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        counts = []
        for n in range(10):
            file, new = tmp_path / f"{n}.tar.gz", tmp_path / f"new{n}"
            assert commands.write_backup(Settings(data=str(data)), str(file))
            assert commands.restore_backup(Settings(data=str(new)), str(file), say_yes)
            with closing(sqlite3.connect(new / "slotproxy.db")) as copy:
                assert copy.execute("pragma integrity_check").fetchall() == [("ok",)]
                counts.append(copy.execute("select count(*) from pair").fetchone()[0])
    finally:
        ended.set()
        writer.join()
    assert [count % 2 for count in counts] == [0] * 10
    assert counts[-1] > counts[0]


def test_existing_files_are_replaced_only_if_the_user_agrees(
    data: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["backup", *flags]) == 1
    assert "exists" in capsys.readouterr().err
    assert main(["backup", *flags, "--force"]) == 0
    with closing(sqlite3.connect(data / "slotproxy.db")) as database, database:
        database.execute("update conversation set title = 'changed'")
    assert main(["restore", *flags]) == 1  # there is no terminal to ask on
    assert "nothing was changed" in capsys.readouterr().err
    assert titles(data) == ["changed"]
    assert main(["restore", *flags, "--force"]) == 0
    assert titles(data) == ["the first"]


def test_data_in_use_are_not_replaced(
    data: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    database = Database(f"sqlite:///{data / 'slotproxy.db'}")
    talks = ConversationStore(database)
    talks.create("ann", "the second", {})
    try:
        assert main(["restore", *flags, "--force"]) == 1
        assert "stop slotproxy first" in capsys.readouterr().err
        assert len(talks.recent("ann")) == 2
    finally:
        database.close()
    assert sorted(path.name for path in data.iterdir() if path.is_dir()) == []


def _damaged(file: Path, kind: str) -> None:
    whole = file.read_bytes()
    if kind == "cut":
        file.write_bytes(whole[: len(whole) // 2])
        return
    if kind == "other":
        file.write_bytes(b"not an archive")
        return
    with tarfile.open(file, "r:gz") as packed:
        held = {member.name: packed.extractfile(member).read() for member in packed}
    if kind == "changed":
        held["slotproxy.db"] = held["slotproxy.db"][:-1] + b"\1"
    elif kind == "longer":
        held["slotproxy.db"] += bytes(64 << 20)
    elif kind == "shorter":
        held["slotproxy.db"] = held["slotproxy.db"][:-1]
    elif kind == "outside":
        manifest = msgspec.json.decode(held["manifest.json"])
        manifest["files"][0]["name"] = "../evil.db"
        held["manifest.json"] = msgspec.json.encode(manifest)
        held["../evil.db"] = held.pop("index.db")
    elif kind == "newer":
        held["manifest.json"] = held["manifest.json"].replace(f'"{NEWEST}"'.encode(), b'"9999"')
    elif kind == "no manifest":
        del held["manifest.json"]
    with tarfile.open(file, "w:gz") as packed:
        for name, content in held.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", "is not a whole backup"),
        ("other", "is not a whole backup"),
        ("changed", "slotproxy.db has another SHA-256"),
        ("longer", "slotproxy.db has another size"),
        ("shorter", "slotproxy.db has another size"),
        ("outside", "'../evil.db', which has no place here"),
        ("newer", "from a later slotproxy"),
        ("no manifest", "is not a backup of slotproxy"),
        ("missing", "No such file"),
    ],
)
def test_bad_backup_changes_nothing(
    kind: str, message: str, data: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(flags[0])
    if kind == "missing":
        file.unlink()
    else:
        _damaged(file, kind)
    assert main(["restore", *flags, "--force"]) == 1
    assert message in capsys.readouterr().err
    assert titles(data) == ["the first"]
    assert sorted(path.name for path in file.parent.iterdir() if path != file) == ["data"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("backup b.tar.gz --database postgresql://ann:secret@db/x", 1, "pg_dump"),
        ("restore b.tar.gz --database postgresql://ann:secret@db/x", 1, "pg_restore"),
        ("backup b.tar.gz --data none", 1, "--data FOLDER"),
        ("backup --data here b.tar.gz", 2, "slotproxy backup FILE"),
    ],
)
def test_what_cannot_be_done_is_told(
    words: str,
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == code
    errors = capsys.readouterr().err
    assert message in errors and "secret" not in errors
    assert [*tmp_path.iterdir()] == []
