"""What a model needs, from its command and files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from proxy.hosting.estimate import (
    MAX_LABEL,
    MAX_LAYERS,
    MAX_PARTS,
    OVERHEAD,
    cache,
    estimated,
    files,
    fingerprint,
    parts,
)
from tests.gguf_files import gguf

from . import fakes

LLAMA = {
    "general.architecture": "llama",
    "llama.block_count": 10,
    "llama.context_length": 4096,
    "llama.embedding_length": 512,
    "llama.attention.head_count": 8,
    "llama.attention.head_count_kv": 2,
}
ROW = 10 * 2 * 64 * 2 * 2  # layers, heads, elements, bytes, keys and values


def need(folder: Path, words: str = "", **fields: Any) -> int:
    """The cache of a model with these fields, by its command."""
    (folder / "m.gguf").write_bytes(gguf({**LLAMA, **fields}))
    config = fakes.config(f"server -m m.gguf {words} --port ${{PORT}}", folder=str(folder))
    (file,) = files(config)
    return cache(file, config.command)


def estimate(command: str, folder: Path) -> int:
    config = fakes.config(command, folder=str(folder))
    (memory,) = estimated(files(config), config.command)
    return memory


def test_estimate_is_the_size_of_the_files_and_a_tenth(tmp_path: Path) -> None:
    """If nothing can be read of them."""
    for name, size in {"m.gguf": 1000, "p.gguf": 200, "other.bin": 5000}.items():
        (tmp_path / name).write_bytes(b"x" * size)
    command = "server -m m.gguf --mmproj=p.gguf --other other.bin --lora no.gguf ${PORT}"
    assert estimate(command, tmp_path) == 1320 + OVERHEAD


def test_estimate_has_the_cache_of_the_context(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf(LLAMA).ljust(100_000, b"x"))
    command = "server -m m.gguf -c 1000 ${PORT}"
    assert estimate(command, tmp_path) == 105_000 + 1000 * ROW + OVERHEAD


def test_context_is_that_of_the_last_flag_or_of_the_file(tmp_path: Path) -> None:
    assert need(tmp_path) == need(tmp_path, "-c 0") == need(tmp_path, "-c") == 4096 * ROW
    assert need(tmp_path, "-c 8192 --ctx-size=100") == 100 * ROW
    assert need(tmp_path, "-c many") == 4096 * ROW


def test_slots_without_a_given_context_have_that_of_the_file_each(tmp_path: Path) -> None:
    assert need(tmp_path, "-np 3") == 3 * 4096 * ROW
    assert need(tmp_path, "-np 3 -kvu") == 4096 * ROW
    assert need(tmp_path, "-np 3 -c 100") == 100 * ROW


def test_cache_types_have_their_sizes(tmp_path: Path) -> None:
    assert need(tmp_path, "-c 100 -ctk f32 --cache-type-v f32") == 200 * ROW
    assert need(tmp_path, "-c 100 -ctk q8_0 -ctv Q8_0") == 100 * ROW * 34 // 64
    assert need(tmp_path, "-c 100 -ctk unknown") == 100 * ROW


def test_heads_may_differ_by_layer_and_keys_from_values(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"llama.attention.head_count_kv": (0, 2) * 5}
    assert need(tmp_path, "-c 100", **fields) == 50 * ROW  # every other layer is recurrent
    fields = {"llama.attention.key_length": 128, "llama.attention.value_length": 32}
    assert need(tmp_path, "-c 100", **fields) == 100 * 10 * 2 * (128 + 32) * 2


def test_model_without_heads_of_keys_has_as_many_as_of_queries(tmp_path: Path) -> None:
    assert need(tmp_path, "-c 100", **{"llama.attention.head_count_kv": 0}) == 400 * ROW


@pytest.mark.parametrize(
    "fields",
    [
        {"general.architecture": "clip"},
        {"llama.block_count": 1 << 60},
        {"llama.attention.head_count": 0},
        {"llama.attention.head_count": "many", "llama.attention.head_count_kv": (-5,)},
        {"llama.embedding_length": 1.5, "llama.context_length": -1},
    ],
)
def test_files_without_usable_numbers_have_no_cache(tmp_path: Path, fields: dict[str, Any]) -> None:
    assert need(tmp_path, **fields) == 0


def test_layers_on_cards_are_spread_evenly(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf(LLAMA).ljust(100_000, b"x"))

    def spread(words: str, cards: int = 2) -> tuple[int, ...]:
        config = fakes.config(f"server -m m.gguf -c 1 {words} ${{PORT}}", folder=str(tmp_path))
        return estimated(files(config), config.command, cards)

    whole = 105_000 + ROW
    assert spread("", 0) == spread("-ngl 99", 0) == (OVERHEAD + whole,)
    assert spread("") == spread("-ngl all") == (OVERHEAD, whole // 2, whole // 2)
    assert spread("-ngl 0") == spread("--device none") == (OVERHEAD + whole, 0, 0)
    part = whole * 6 // 11  # of ten layers and the output
    assert sum(spread("-ngl 6")) == pytest.approx(OVERHEAD + whole, abs=2)
    assert spread("-ngl 6", 1)[1] == pytest.approx(part, abs=1)


def test_numbers_of_a_file_are_bounded(tmp_path: Path) -> None:
    one = need(tmp_path, "-c 1", **{"llama.block_count": MAX_LAYERS})
    assert need(tmp_path, "-c 1", **{"llama.block_count": MAX_LAYERS + 1}) == one
    (tmp_path / "m.gguf").write_bytes(gguf({"general.name": "x" * 500}))
    (file,) = files(fakes.config("server -m m.gguf ${PORT}", folder=str(tmp_path)))
    assert len(file.text("general.name")) == MAX_LABEL


def test_all_parts_of_a_split_model_count() -> None:
    assert [path.name for path in parts(Path("x-00001-of-00003.gguf"))] == [
        f"x-0000{number}-of-00003.gguf" for number in (1, 2, 3)
    ]
    assert len(list(parts(Path("x-00001-of-99999.gguf")))) == MAX_PARTS


def test_fingerprint_changes_with_command_environment_and_file(tmp_path: Path) -> None:
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
