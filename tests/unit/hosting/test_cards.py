"""Memory of graphics cards. Here nvidia-smi is a script: there is no card in the test machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.hosting import need as module
from proxy.hosting.estimate import OVERHEAD
from proxy.hosting.need import MAX_CARDS, MIB, Cards, Need, visible
from tests.gguf_files import gguf

from . import fakes

Install = Callable[..., None]
TWO = "GPU-a, 0, 24576\nGPU-b, 1, 16384\n"


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


def test_without_nvidia_smi_there_are_the_given_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert (Cards().totals, Cards().held({1})) == ((), ())
    assert Cards([5, 6]).totals == (5, 6)


def test_memory_of_each_card_is_read(install: Install) -> None:
    install()
    assert Cards().totals == (24576 * MIB, 16384 * MIB)
    assert Cards([1, 2]).totals == (1, 2)  # as configured


def test_memory_that_processes_hold_is_read_for_each_card(install: Install) -> None:
    install(
        apps="GPU-a, 10, 100\nGPU-b, 10, 20\nGPU-b, 11, 3\nGPU-b, 99, 1000\nGPU-c, 10, 1\n"
        "GPU-a, 12, [N/A]\nGPU-a, [Not Found], 5\nwarning\n"
    )
    assert Cards().held({10, 11, 12}) == (100 * MIB, 23 * MIB)
    assert Cards().held({5}) == (0, 0)


@pytest.mark.parametrize("script", ["exit 9", "echo no devices were found", "exec cat /dev/null"])
def test_failing_nvidia_smi_tells_of_no_cards(install: Install, script: str) -> None:
    install(script=script)
    assert (Cards().totals, Cards().held({1})) == ((), ())


def test_hanging_nvidia_smi_is_ended(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    install(script="exec sleep 60")
    assert Cards().totals == ()


def test_number_of_cards_is_bounded(install: Install) -> None:
    install("".join(f"GPU-{number}, {number}, 1\n" for number in range(MAX_CARDS + 1)))
    assert len(Cards().totals) == MAX_CARDS


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
    environment = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    assert visible(environment, 3) == numbers


def model(folder: Path, cards: Cards, words: str = "", **fields: object) -> Need:
    (folder / "m.gguf").write_bytes(gguf({"general.name": "m"}).ljust(20_000, b"x"))
    command = f"server -m {folder / 'm.gguf'} {words} ${{PORT}}"
    return Need(fakes.config(command, **fields), None, cards)


def test_estimate_is_spread_over_the_cards_of_the_server(tmp_path: Path) -> None:
    cards = Cards([1, 1, 1])
    assert model(tmp_path, cards).cards == (7000,) * 3
    one = {"CUDA_VISIBLE_DEVICES": "1"}
    assert model(tmp_path, cards, environment=one).amounts == (OVERHEAD, 0, 21_000, 0)
    assert model(tmp_path, cards, "-ngl 0").amounts == (OVERHEAD + 21_000, 0, 0, 0)
    assert model(tmp_path, Cards()).amounts == (OVERHEAD + 21_000,)


def test_configured_memory_of_cards_is_that_of_all_or_of_each(tmp_path: Path) -> None:
    cards, one = Cards([1, 1, 1]), {"CUDA_VISIBLE_DEVICES": "2"}
    assert model(tmp_path, cards, gpu_memory="3KiB").cards == (1024,) * 3
    assert model(tmp_path, cards, gpu_memory="3KiB", environment=one).cards == (0, 0, 3072)
    assert model(tmp_path, cards, gpu_memory="1KiB, 2KiB").cards == (1024, 2048)
    assert model(tmp_path, Cards(), gpu_memory="3KiB").cards == ()


def test_what_a_server_holds_on_cards_is_learned(install: Install, tmp_path: Path) -> None:
    pid, session = os.getpid(), os.getsid(0)
    install(apps=f"GPU-b, {pid}, 7\n")
    need = model(tmp_path, Cards())
    need.recall()
    need.measure(session)
    assert need.cards == (0, 7 * MIB)
    assert "and 7 MiB on graphics cards" in need.shown
    install(apps=f"GPU-b, {pid}, 5\n")
    need.measure(session)
    assert need.cards == (0, 7 * MIB)
