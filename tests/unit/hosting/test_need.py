"""What a model needs: configured, learned or estimated."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import StoreUnavailable
from proxy.hosting import need as module
from proxy.hosting.estimate import OVERHEAD, fingerprint
from proxy.hosting.need import GUESS, Need

from . import fakes


class Kept(dict[str, Mapping[str, Any]]):
    recall = dict.get

    def keep(self, fingerprint: str, need: Mapping[str, Any]) -> None:
        self[fingerprint] = need


class Away:
    def recall(self, fingerprint: str) -> None:
        raise StoreUnavailable("away")

    def keep(self, fingerprint: str, need: Mapping[str, Any]) -> None:
        raise StoreUnavailable("away")


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What servers hold: the first of these, at each look."""
    sizes: list[int] = []
    monkeypatch.setattr(module, "resident", lambda pid: {pid: sizes.pop(0)})
    return sizes


def test_what_a_server_held_most_is_known_after_a_restart(held: list[int]) -> None:
    kept = Kept()
    need = Need(fakes.config(), kept)
    need.recall()
    assert (need.memory, need.seconds, need.is_learned) == (OVERHEAD, GUESS, False)
    held += [500, 800, 700]
    need.measure(1)
    assert need.memory == 500
    need.learn(2.5)
    need.keep()
    need.measure(1)
    need.measure(1)
    need.keep()
    later = Need(fakes.config(), kept)
    later.recall()
    assert (later.memory, later.seconds, later.is_learned) == (800, 2.5, True)
    held.append(300)
    later.measure(1)  # of another life: the last one counts
    assert later.memory == 300


def test_configured_memory_is_not_learned(held: list[int]) -> None:
    need = Need(fakes.config(memory="1GiB"), Kept())
    need.recall()
    held.append(500)
    need.measure(1)
    need.learn(1.0)
    need.keep()
    assert need.memory == 1 << 30


def test_changed_file_is_learned_anew(tmp_path: Path, held: list[int]) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"x" * 100)
    need = Need(fakes.config(f"server -m {file} ${{PORT}}"), Kept())
    need.recall()
    held.append(500)
    need.measure(1)
    need.learn(1.0)
    need.keep()
    need.recall()
    assert need.memory == 500
    file.write_bytes(b"x" * 1000)
    need.recall()
    assert (need.memory, need.seconds) == (OVERHEAD + 1100, GUESS)
    os.utime(file, (1, 1))
    need.recall()
    assert not need.is_learned


def test_system_that_does_not_tell_memory_leaves_the_estimate(held: list[int]) -> None:
    need = Need(fakes.config(), Kept())
    need.recall()
    held.append(0)
    need.measure(1)
    need.learn(1.0)
    need.keep()
    assert (need.memory, need.is_learned) == (OVERHEAD, True)


@pytest.mark.parametrize("wrong", [{"memory": "much"}, {"memory": None}, {"seconds": []}])
def test_wrong_rows_are_ignored(wrong: Mapping[str, Any]) -> None:
    kept = Kept()
    need = Need(fakes.config(), kept)
    kept[fingerprint(fakes.config())] = wrong
    need.recall()
    assert need.memory == OVERHEAD


def test_database_that_is_away_is_logged(held: list[int], caplog: pytest.LogCaptureFixture) -> None:
    need = Need(fakes.config(), Away())
    need.recall()
    held.append(500)
    need.measure(1)
    need.learn(1.0)
    need.keep()
    assert need.memory == 500
    assert [record.message for record in caplog.records] == [
        "model m: its memory is not known: away",
        "model m: its memory is not kept: away",
    ]


def test_time_of_the_last_load_and_the_source_of_a_need_are_known(held: list[int]) -> None:
    kept = Kept()
    need = Need(fakes.config(), kept)
    need.recall_once()
    assert (need.source, need.loaded_at) == ("estimated", 0.0)
    held.append(500)
    need.measure(1)
    need.learn(2.5)
    need.keep()
    later = Need(fakes.config(), kept)
    later.recall_once()
    assert (later.source, later.loaded_at) == ("measured", need.loaded_at)
    assert later.loaded_at == pytest.approx(time.time(), abs=60)
    assert Need(fakes.config(memory="1GiB"), kept).source == "set"


def test_what_is_known_is_recalled_once(held: list[int]) -> None:
    need = Need(fakes.config(), Kept())
    need.recall_once()
    held.append(500)
    need.measure(1)
    need.recall_once()
    assert need.memory == 500
