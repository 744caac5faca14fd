"""The head of a GGUF file, read within bounds."""

from __future__ import annotations

import contextlib
import struct
import time
import tracemalloc
from collections.abc import Collection
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends import gguf as module
from proxy.backends.gguf import MAX_LIST, MAX_NAME, MAX_TEXT, Tokenizer, metadata, tokenizer
from tests.gguf_files import gguf, text
from tools import made_up_model as made_up

FIELDS = {
    "general.architecture": "llama",
    "general.file_type": 2,
    "llama.block_count": 2,
    "llama.rope": 0.5,
    "llama.heads": (1, 2, 3),
    "other.heads": (4, 5),
    "general.languages": ("en", "de"),
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ("a", "<s>", "", "</s>"),
    "tokenizer.ggml.scores": (1, 2),
    "tokenizer.ggml.merges": ("a b",) * 3,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 3,
    "tokenizer.chat_template": "{{ messages }}",
}
NAMES = {"general.architecture", ".block_count", ".heads", ".rope", "general.languages"}
ALL = {"a", "b", "c"}


def read(data: bytes, folder: Path, names: Collection[str] = NAMES) -> dict[str, module.Value]:
    file = folder / "m.gguf"
    file.write_bytes(data)
    return metadata(file, names)


def prompts(data: bytes, folder: Path) -> Tokenizer:
    file = folder / "m.gguf"
    file.write_bytes(data)
    return tokenizer(file)


def test_named_fields_are_read_up_to_those_of_the_tokenizer(tmp_path: Path) -> None:
    expected = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.rope": 0.5,
        "llama.heads": (1, 2, 3),
    }
    data = gguf(FIELDS)
    assert read(data, tmp_path) == expected
    assert read(data[: data.index(b"gpt2")], tmp_path) == expected


def test_template_and_the_texts_of_its_tokens_are_read(tmp_path: Path) -> None:
    expected = Tokenizer(
        template="{{ messages }}", bos_token="<s>", eos_token="</s>", adds_bos=False
    )
    assert prompts(gguf(FIELDS), tmp_path) == expected
    reversed_order = dict(reversed(FIELDS.items()))  # the numbers of tokens before their texts
    assert prompts(gguf(reversed_order), tmp_path) == expected


@pytest.mark.parametrize(
    ("fields", "adds"),
    [
        ({"tokenizer.ggml.model": "llama"}, True),
        ({"tokenizer.ggml.model": "gpt2"}, False),
        ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.add_bos_token": 1}, True),
        ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.add_bos_token": 0}, False),
    ],
)
def test_bos_is_added_as_the_file_says(
    tmp_path: Path, fields: dict[str, object], adds: bool
) -> None:
    assert prompts(gguf(fields), tmp_path).adds_bos == adds


@pytest.mark.parametrize("number", [4, -1, 1 << 62, 0.5, "1"])
def test_number_of_no_token_has_no_text(tmp_path: Path, number: object) -> None:
    data = gguf({**FIELDS, "tokenizer.ggml.bos_token_id": number})
    assert (prompts(data, tmp_path).bos_token, prompts(data, tmp_path).eos_token) == ("", "</s>")


def test_real_writer_is_understood(tmp_path: Path) -> None:
    names = {"general.name", ".context_length"}
    found = metadata(made_up.write(tmp_path / "m.gguf", n_ctx=512), names)
    assert (found["general.name"], found["llama.context_length"]) == ("made-up", 512)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a GGUF file"),
        (b"GGML" + bytes(40), "not a GGUF file"),
        (b"GGUF", "cut off"),
        (gguf(FIELDS, version=1), "unknown version"),
        (gguf(FIELDS, version=1 << 24), "unknown version"),  # of a big-endian machine
        (gguf(FIELDS, count=1 << 60), "too many fields"),
        (gguf(FIELDS, count=9), None),  # nothing after the tokenizer's is read
        (gguf(FIELDS)[:60], "cut off"),
        (gguf({}, count=1) + struct.pack("<Q", MAX_NAME + 1), "name is too long"),
        (gguf({}, count=1) + text("x") + struct.pack("<I", 99), "unknown type"),
        (gguf({}, count=1) + text(".heads") + struct.pack("<I", 4), "cut off"),
        (gguf({}, count=1) + text("x") + struct.pack("<IIQ", 9, 9, 1), "unknown type of array"),
        (gguf({}, count=1) + text("x") + struct.pack("<IIQ", 9, 8, 1 << 60), "too many strings"),
        (gguf({}, count=1) + text("x") + struct.pack("<IIQ", 9, 11, 1 << 60), "too large"),
        (gguf({}, count=1) + text("x") + struct.pack("<IQ", 8, 1 << 63), "too large"),
    ],
)
def test_broken_heads_are_refused(tmp_path: Path, data: bytes, why: str | None) -> None:
    if why is None:
        assert read(data, tmp_path)
        return
    with pytest.raises(ValueError, match=why):
        read(data, tmp_path)


def test_long_values_are_skipped(tmp_path: Path) -> None:
    fields = {"a": "x" * (MAX_TEXT + 1), "b": tuple(range(MAX_LIST + 1)), "c": 1}
    assert read(gguf(fields), tmp_path, ALL) == {"c": 1}
    fields = {"a": "x" * MAX_TEXT, "b": tuple(range(MAX_LIST))}
    assert read(gguf(fields), tmp_path, ALL) == fields


@pytest.mark.parametrize("size", [module.BLOCK - 9, module.BLOCK - 1, 3 * module.BLOCK, 7])
def test_strings_of_any_length_are_skipped(tmp_path: Path, size: int) -> None:
    fields = {"x": ("y" * size, "", "z" * size) * 50, "c": 1}
    assert read(gguf(fields), tmp_path, ALL) == {"c": 1}


def test_bytes_of_a_head_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = gguf({"a": ("x" * 100,) * 5, "b": (1,) * 90})
    for name in ("MAX_BYTES", "MAX_READ"):
        read(data, tmp_path, ALL)
        with monkeypatch.context() as patch:
            patch.setattr(module, name, 400)
            with pytest.raises(ValueError, match="metadata is too large"):
                read(data, tmp_path, ALL)


def test_hostile_head_takes_little_time_and_no_memory_that_stays(tmp_path: Path) -> None:
    """Lists that were kept took 300 MB."""
    names = (f"a{number}.heads" for number in range(9_000))
    lists = gguf(dict.fromkeys(names, (1,) * 900))
    strings = gguf({"x": ("",) * 1_999_990, "c": 1})
    for data in (lists, strings):
        began = time.process_time()
        with contextlib.suppress(ValueError):
            read(data, tmp_path)
        assert time.process_time() - began < 4  # usually a third of a second
    tracemalloc.start()
    with contextlib.suppress(ValueError):
        read(lists, tmp_path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 20 << 20


@given(st.data())
def test_changed_bytes_raise_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(gguf(FIELDS))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(4, len(whole) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.getbasetemp()
    for reader in (read, prompts):
        with contextlib.suppress(ValueError):
            reader(bytes(whole), folder)
