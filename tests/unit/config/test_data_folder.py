"""The first line of the log names the stored data."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from proxy.config import Settings
from proxy.config.data_folder import data_folder, stored


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


def test_folder_is_named_with_what_is_in_it_and_how_to_turn_it_off(tmp_path: Path) -> None:
    text = stored(Settings(data=str(tmp_path / "data")))
    assert text.startswith("~/data (conversations, usage, files); --data FOLDER moves it")
    assert text.endswith("--ledger-days 0 turns usage off")
    assert stored(Settings()).startswith(str(data_folder()))
    assert "usage" not in stored(Settings(ledger_days=0))
    assert "usage, captures, files" in stored(Settings(capture="failed"))


def test_what_prevents_it_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    text = stored(Settings(data=str(tmp_path / "file" / "data")))
    assert text.startswith(f"nothing is stored: {tmp_path}/file/data cannot be written; --data")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "nothing is stored; for conversations and usage: uv pip install" in stored(Settings())
