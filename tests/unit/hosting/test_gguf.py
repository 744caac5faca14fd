"""The head of a GGUF file, read within bounds."""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.hosting import gguf as module
from proxy.hosting.gguf import MAX_LIST, MAX_NAME, MAX_TEXT, metadata
from tests.gguf_files import gguf, text, value
from tools import made_up_model as made_up

FIELDS = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.rope": 0.5,
    "llama.heads": (1, 2, 3),
    "general.languages": ("en", "de"),
    "tokenizer.ggml.tokens": ("a", "b"),
    "tokenizer.ggml.scores": (1, 2),
    "tokenizer.chat_template": "{{ messages }}",
}


def read(data: bytes, folder: Path, *, template: bool = False) -> dict[str, module.Value]:
    file = folder / "m.gguf"
    file.write_bytes(data)
    return metadata(file, template=template)


def test_fields_are_read_up_to_those_of_the_tokenizer(tmp_path: Path) -> None:
    expected = dict(list(FIELDS.items())[:4])
    data = gguf(FIELDS)
    assert read(data, tmp_path) == expected
    assert read(data[: data.index(b"a" + struct.pack("<Q", 1))], tmp_path) == expected
    expected["tokenizer.chat_template"] = "{{ messages }}"
    assert read(data, tmp_path, template=True) == expected


def test_real_writer_is_understood(tmp_path: Path) -> None:
    found = metadata(made_up.write(tmp_path / "m.gguf", n_ctx=512))
    assert (found["general.name"], found["llama.context_length"]) == ("made-up", 512)


def test_every_number_has_its_size(tmp_path: Path) -> None:
    numbers = b"".join(
        text(f"n{kind}") + struct.pack(f"<I{form}", kind, 1)
        for kind, form in module._NUMBERS.items()
    )
    found = read(gguf({}, count=len(module._NUMBERS)) + numbers, tmp_path)
    assert set(found.values()) == {1}
    assert len(found) == len(module._NUMBERS)


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
    assert read(gguf(fields), tmp_path) == {"c": 1}
    fields = {"a": "x" * MAX_TEXT, "b": tuple(range(MAX_LIST))}
    assert read(gguf(fields), tmp_path) == fields


def test_strings_of_a_vocabulary_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = gguf({"a": ("x",) * 6})
    monkeypatch.setattr(module, "MAX_ITEMS", 5)
    with pytest.raises(ValueError, match="too many strings"):
        read(data, tmp_path)


def test_bytes_of_a_head_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = gguf({"a": ("x" * 100,) * 5})
    monkeypatch.setattr(module, "MAX_BYTES", 400)
    with pytest.raises(ValueError, match="metadata is too large"):
        read(data, tmp_path)


def test_number_of_fields_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FIELDS", 7)
    with pytest.raises(ValueError, match="too many fields"):
        read(gguf(FIELDS), tmp_path)


def test_pipe_is_no_model_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.gguf")
    with pytest.raises(ValueError, match="not a regular file"):
        metadata(tmp_path / "m.gguf")


@given(st.data())
def test_changed_bytes_raise_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(gguf(FIELDS))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(4, len(whole) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.getbasetemp()
    for template in (False, True):
        with contextlib.suppress(ValueError):
            read(bytes(whole), folder, template=template)


def test_field_without_value_is_cut_off(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cut off"):
        read(gguf({}, count=1) + text("x") + value(1)[:5], tmp_path)
