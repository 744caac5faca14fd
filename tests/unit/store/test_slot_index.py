"""The index of saved slots, beside their files."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from proxy.errors import StoreUnavailable
from proxy.store import slot_index
from proxy.store.slot_index import ModelRow, SlotIndex, SlotRow


def row(file: str = "a.bin", folder: str = "/f") -> SlotRow:
    return SlotRow(
        folder=folder, file=file, identity=b"i", tokens=7, size=9, saved=time.time(), record=b"r"
    )


def model(*files: SlotRow, vain: int = 0) -> ModelRow:
    return ModelRow(command=b"c", fingerprint=b"f", vain=vain, files=files)


def test_what_is_known_of_a_model_is_replaced_whole(tmp_path: Path) -> None:
    index = SlotIndex(tmp_path / "index.sqlite")
    assert index.read("m") is None
    first, second = row(), row("b.bin")
    index.replace("m", model(first, second, vain=1))
    index.replace("other", model(row("c.bin")))
    found = SlotIndex(tmp_path / "index.sqlite").read("m")
    assert found is not None
    assert (found.command, found.fingerprint, found.vain) == (b"c", b"f", 1)
    assert {one.file for one in found.files} == {"a.bin", "b.bin"}
    assert first in found.files
    index.replace("m", model())
    assert index.read("m") == ModelRow(command=b"c", fingerprint=b"f", vain=0, files=[])
    assert index.current("/f", time.time()) == {"c.bin"}
    assert index.current("/g", time.time()) == set()


def test_models_that_were_not_used_for_long_are_forgotten(tmp_path: Path) -> None:
    index = SlotIndex(tmp_path / "index.sqlite")
    index.replace("m", model(row()))
    later = time.time() + slot_index.LASTING
    assert index.current("/f", later - 60) == {"a.bin"}
    assert index.current("/f", later + 60) == set()
    assert index.read("m") is None


def test_number_of_files_of_a_model_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_index, "MOST_ROWS", 2)
    index = SlotIndex(tmp_path / "index.sqlite")
    index.replace("m", model(*(row(f"{n}.bin") for n in range(3))))
    found = index.read("m")
    assert found is not None
    assert len(found.files) == 2


@pytest.mark.parametrize("content", [b"not a database" * 100, b"\0" * 4096])
def test_broken_index_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "index.sqlite"
    file.write_bytes(content)
    index = SlotIndex(file)
    assert index.read("m") is None
    index.replace("m", model(row()))
    assert index.current("/f", time.time()) == {"a.bin"}


def test_index_of_another_version_is_begun_anew(tmp_path: Path) -> None:
    file = tmp_path / "index.sqlite"
    SlotIndex(file).replace("m", model(row()))
    with closing(sqlite3.connect(file)) as db:
        db.execute("pragma user_version = 99")
    assert SlotIndex(file).read("m") is None


def test_index_is_private(tmp_path: Path) -> None:
    index = SlotIndex(tmp_path / "index.sqlite")
    index.replace("m", model(row()))
    assert (tmp_path / "index.sqlite").stat().st_mode & 0o077 == 0


def test_locked_index_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_index, "BUSY", 0.0)
    index = SlotIndex(tmp_path / "index.sqlite")
    index.replace("m", model(row()))
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as other:
        other.execute("begin exclusive")
        with pytest.raises(StoreUnavailable):
            index.read("m")
        other.rollback()
    assert index.read("m") is not None
