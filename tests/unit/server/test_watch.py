"""The settings file and the folder of models are watched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.server.serve import Watched


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "slotproxy.toml"
    made.write_text("a = 1")
    return made


def looks(watched: Watched, times: int = 4) -> list[bool]:
    return [watched.changed() for _ in range(times)]


def test_change_is_told_once_and_after_it_has_settled(file: Path) -> None:
    watched = Watched([str(file), ""])
    assert looks(watched) == [False] * 4
    file.write_text("a = 22")
    assert looks(watched) == [False, True, False, False]


def test_file_that_still_changes_is_waited_for(file: Path) -> None:
    watched = Watched([str(file)])
    for size in range(2, 5):
        file.write_text("a" * 10 * size)
        assert not watched.changed()
    assert looks(watched, 2) == [True, False]


def test_file_that_is_replaced_or_missing_for_a_moment(file: Path) -> None:
    watched = Watched([str(file)])
    file.unlink()
    assert looks(watched) == [False] * 4
    file.write_text("a = 33")  # its inode and its time may be those of the first
    assert looks(watched, 3) == [False, True, False]
    other = file.with_suffix(".new")
    other.write_text("a = 4")
    os.replace(other, file)
    assert looks(watched, 3) == [False, True, False]


def test_same_content_with_a_new_time_counts(file: Path) -> None:
    watched = Watched([str(file)])
    os.utime(file, (1, 1))
    assert looks(watched, 3) == [False, True, False]


def test_new_file_in_a_folder_counts(tmp_path: Path) -> None:
    watched = Watched([str(tmp_path)])
    (tmp_path / "new.gguf").touch()
    os.utime(tmp_path, (1, 1))
    assert looks(watched, 3) == [False, True, False]
