"""What a model needs: configured, measured or guessed. Here nvidia-smi is a script: there is no
card in the test machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import StoreUnavailable
from proxy.hosting import need as module
from proxy.hosting.model_files import MAX_LABEL, files, fingerprint, parts
from proxy.hosting.need import GUESS, MIB, Cards, Need, visible
from tests.gguf_files import gguf

from . import fakes

Install = Callable[..., None]
TWO = "GPU-a, 0, 24576\nGPU-b, 1, 16384\n"


class SavedTotals(dict[str, Mapping[str, Any]]):
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
    """The memory that servers hold: the first of these, at each look."""
    sizes: list[int] = []
    monkeypatch.setattr(module, "resident", lambda pid: {pid: sizes.pop(0)})
    return sizes


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a nvidia-smi on the path that prints these tables, or runs a script instead."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def written(gpus: str = TWO, apps: str = "", script: str = "") -> None:
        (tmp_path / "gpus").write_text(gpus)
        (tmp_path / "apps").write_text(apps)
        own = f'case "$1" in *gpu=*) cat {tmp_path}/gpus;; *) cat {tmp_path}/apps;; esac'
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script or own}\n")
        (folder / "nvidia-smi").chmod(0o755)

    return written


def loaded(need: Need, held: list[int], size: int = 500) -> None:
    """Its server has shown its needs."""
    held.append(size)
    need.measure(1)
    need.learn(2.5)
    need.keep()


# before the first load


def test_guess_is_a_factor_of_the_size_of_the_files(tmp_path: Path) -> None:
    for name, size in {"m.gguf": 1000, "p.gguf": 200, "other.bin": 5000}.items():
        (tmp_path / name).write_bytes(b"x" * size)
    command = "server -m m.gguf --mmproj=p.gguf --other other.bin --lora no.gguf ${PORT}"
    need = Need(fakes.config(command, folder=str(tmp_path)))
    assert (need.amounts, need.source, need.learned.seconds) == ((1500,), "estimated", GUESS)


def test_all_parts_of_a_split_model_count() -> None:
    assert [path.name for path in parts(Path("x-00001-of-00003.gguf"))] == [
        f"x-0000{number}-of-00003.gguf" for number in (1, 2, 3)
    ]


def test_label_of_a_file_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf({"general.name": "x" * 500}))
    (file,) = files(fakes.config("server -m m.gguf ${PORT}", folder=str(tmp_path)))
    assert len(file.text("general.name")) == MAX_LABEL


def model(folder: Path, cards: Cards, words: str = "", **fields: object) -> Need:
    (folder / "m.gguf").write_bytes(gguf({"general.name": "m"}).ljust(24_000, b"x"))
    command = f"server -m {folder / 'm.gguf'} {words} ${{PORT}}"
    return Need(fakes.config(command, **fields), None, cards)


def test_guess_is_spread_over_the_cards_of_the_server(tmp_path: Path) -> None:
    cards = Cards([1, 1, 1])
    second = {"CUDA_VISIBLE_DEVICES": "1"}
    assert model(tmp_path, cards).amounts == (0, *(10_000,) * 3)
    assert model(tmp_path, cards, environment=second).amounts == (0, 0, 30_000, 0)
    for words in ("-ngl 0", "--device none"):
        assert model(tmp_path, cards, words).amounts == (30_000, 0, 0, 0)
    assert model(tmp_path, Cards()).amounts == (30_000,)


def test_configured_memory_of_cards_is_that_of_all_or_of_each(tmp_path: Path) -> None:
    cards, third = Cards([1, 1, 1]), {"CUDA_VISIBLE_DEVICES": "2"}
    assert model(tmp_path, cards, gpu_memory="3KiB").cards == (1024,) * 3
    assert model(tmp_path, cards, gpu_memory="3KiB", environment=third).cards == (0, 0, 3072)
    assert model(tmp_path, cards, gpu_memory="1KiB, 2KiB").cards == (1024, 2048)
    assert model(tmp_path, Cards(), gpu_memory="3KiB").cards == ()


# once it was loaded


def test_what_a_server_held_most_is_known_after_a_restart(held: list[int]) -> None:
    totals = SavedTotals()
    need = Need(fakes.config(), totals)
    need.recall_once()
    assert (need.memory, need.learned.seconds, need.learned.loaded_at) == (0, GUESS, 0.0)
    loaded(need, held, 500)
    assert need.memory == 500
    need.recall_once()
    assert need.memory == 500
    held += [800, 700]
    need.measure(1)
    need.measure(1)
    need.keep()
    later = Need(fakes.config(), totals)
    later.recall_once()
    assert (later.memory, later.learned.seconds, later.source) == (800, 2.5, "measured")
    assert later.learned.loaded_at == need.learned.loaded_at == pytest.approx(time.time(), abs=60)
    held.append(300)
    later.measure(1)  # of another life: the last one counts
    assert later.memory == 300


def test_configured_memory_is_not_measured(held: list[int]) -> None:
    need = Need(fakes.config(memory="1GiB"), SavedTotals())
    need.recall()
    loaded(need, held)
    assert (need.memory, need.source) == (1 << 30, "set")


def test_changed_file_is_measured_anew(tmp_path: Path, held: list[int]) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"x" * 100)
    need = Need(fakes.config(f"server -m {file} ${{PORT}}"), SavedTotals())
    need.recall()
    loaded(need, held)
    need.recall()
    assert need.memory == 500
    file.write_bytes(b"x" * 1000)
    need.recall()
    assert (need.memory, need.learned.seconds) == (1250, GUESS)
    os.utime(file, (1, 1))
    need.recall()
    assert not need.learned.loaded_at


def test_system_that_does_not_tell_memory_leaves_the_guess(held: list[int]) -> None:
    need = Need(fakes.config(), SavedTotals())
    need.recall()
    loaded(need, held, 0)
    assert (need.source, need.learned.seconds) == ("estimated", 2.5)


@pytest.mark.parametrize("wrong", [{"memory": "much"}, {"memory": None}, {"seconds": []}])
def test_wrong_rows_are_ignored(wrong: Mapping[str, Any]) -> None:
    totals = SavedTotals()
    need = Need(fakes.config(), totals)
    totals[fingerprint(fakes.config())] = wrong
    need.recall()
    assert need.memory == 0


def test_database_that_is_away_is_logged(held: list[int], caplog: pytest.LogCaptureFixture) -> None:
    need = Need(fakes.config(), Away())
    need.recall()
    loaded(need, held)
    assert need.memory == 500
    assert [record.message for record in caplog.records] == [
        "model m: its memory is not known: away",
        "model m: its memory is not kept: away",
    ]


def test_what_is_known_is_of_the_command_environment_and_file(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"

    def printed(words: str = "", **environment: str) -> str:
        command = f"server -m m.gguf {words} ${{PORT}}"
        return fingerprint(fakes.config(command, folder=str(tmp_path), environment=environment))

    missing = printed()
    file.write_bytes(b"x")
    os.utime(file, (1, 1))
    first = printed()
    assert first == printed() != missing
    seen = {missing, first, printed("-c 5"), printed(CUDA_VISIBLE_DEVICES="1")}
    os.utime(file, (2, 2))
    seen.add(printed())
    file.write_bytes(b"xx")
    os.utime(file, (2, 2))
    assert len({*seen, printed()}) == 6


# graphics cards


def test_memory_of_each_card_is_read(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    assert Cards().totals == (24576 * MIB, 16384 * MIB)
    assert Cards([1, 2]).totals == (1, 2)  # as configured
    monkeypatch.setenv("PATH", "/nowhere")
    assert (Cards().totals, Cards().held({1})) == ((), ())


def test_memory_that_processes_hold_is_read_for_each_card(install: Install) -> None:
    install(
        apps="GPU-a, 10, 100\nGPU-b, 10, 20\nGPU-b, 11, 3\nGPU-b, 99, 1000\nGPU-c, 10, 1\n"
        "GPU-a, 12, [N/A]\nGPU-a, [Not Found], 5\nwarning\n"
    )
    assert Cards().held({10, 11, 12}) == (100 * MIB, 23 * MIB)
    assert Cards().held({5}) == (0, 0)


@pytest.mark.parametrize(
    "script", ["exit 9", "echo no devices were found", "exec cat /dev/null", "exec sleep 60"]
)
def test_failing_nvidia_smi_tells_of_no_cards(
    install: Install, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    install(script=script)
    assert (Cards().totals, Cards().held({1})) == ((), ())


@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        (None, [0, 1, 2]),
        ("1", [1]),
        ("2, 0", [2, 0]),
        ("", []),
        ("-1", []),
        ("1,9,2", [1]),
        ("GPU-a", [0, 1, 2]),
    ],
)
def test_cards_of_a_server_are_those_of_its_environment(
    value: str | None, numbers: list[int]
) -> None:
    assert visible(value, 3) == numbers


def test_what_a_server_holds_on_cards_is_measured(install: Install, tmp_path: Path) -> None:
    pid, session = os.getpid(), os.getsid(0)
    install(apps=f"GPU-b, {pid}, 7\n")
    need = model(tmp_path, Cards())
    need.recall()
    need.measure(session)
    assert need.cards == (0, 7 * MIB)
    assert need.memory > MIB, "what the processes of the session hold"
    install(apps=f"GPU-b, {pid}, 5\n")
    need.measure(session)
    assert need.cards == (0, 7 * MIB)
