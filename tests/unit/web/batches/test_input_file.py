"""Input files of batches: what is wrong with their lines, and the order of answering."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.apis.batches import objects as batches
from proxy.apis.batches.objects import LineError
from proxy.batches import input_file
from proxy.batches.input_file import Index, Lines, RawLine, index, prefix_key

CHAT = "/v1/chat/completions"


def line(number: int, text: str = "Hi", **changes: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    made = {"custom_id": f"l{number}", "method": "POST", "url": CHAT, "body": body}
    return {**made, **changes}


def text_of(read: RawLine) -> str:
    return str(json.loads(read.body)["messages"][0]["content"])


def encoded(*values: Any) -> bytes:
    return b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in values)


def indexed(data: bytes, size: int = 100, longest: int = 10_000) -> tuple[Index, Lines]:
    def piece(number: int) -> bytes | None:
        return data[number * size : (number + 1) * size] or None

    found = index(piece, CHAT, longest, lambda: None)
    return found, Lines(piece, size, found)


@given(st.integers(1, 500), st.lists(st.text(max_size=80), min_size=1, max_size=20), st.booleans())
def test_lines_are_read_whatever_the_size_of_pieces(
    size: int, texts: list[str], newline: bool
) -> None:
    data = encoded(*(line(i, text) for i, text in enumerate(texts))) + b"\n\n" * newline
    found, lines = indexed(data, size)
    assert not found.errors and sorted(found.order) == list(range(len(texts)))
    for i, text in enumerate(texts):
        read = lines.read(i)
        assert (read.custom_id, text_of(read)) == (f"l{i}", text)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (b"{", "invalid_json_line"),
        (b"[]", "invalid_json_line"),
        (b"\xff\xfe", "invalid_json_line"),
        (line(1, custom_id=None), "invalid_custom_id"),
        (line(1, custom_id=""), "invalid_custom_id"),
        (line(1, custom_id="x" * 513), "invalid_custom_id"),
        (line(1, custom_id="l0"), "duplicate_custom_id"),
        (line(1, method="GET"), "invalid_method"),
        (line(1, url="/v1/embeddings"), "mismatched_url"),
        (line(1, body=[]), "invalid_body"),
        (line(1, body={"stream": True}), "unsupported_parameter"),
        (line(1, "x" * 20_000), "line_too_long"),
        (b"[" * 9000, "invalid_json_line"),
    ],
)
def test_error_names_its_line(wrong: Any, code: str) -> None:
    found, _ = indexed(encoded(line(0), b"", wrong, line(2)))
    assert [(one["line"], one["code"]) for one in found.errors] == [(3, code)]


@pytest.mark.parametrize("data", [b"\n", b"\n \n"])
def test_file_without_lines_is_an_error(data: bytes) -> None:
    assert [one["code"] for one in indexed(data)[0].errors] == ["empty_file"]


def test_number_of_lines_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_LINES", 3)
    assert not indexed(encoded(*map(line, range(3))))[0].errors
    found, _ = indexed(encoded(*map(line, range(9))))
    assert [(one["line"], one["code"]) for one in found.errors] == [(4, "too_many_requests")]


def test_number_of_blank_lines_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_LINES", 3)
    first = encoded(line(0))
    assert not indexed(first + b"\n" * 5)[0].errors
    found, _ = indexed(first + b"\n" * 10**6)
    assert [(one["line"], one["code"]) for one in found.errors] == [(7, "too_many_requests")]


def test_number_of_errors_is_bounded() -> None:
    found, _ = indexed(b"x\n" * 1000)
    assert len(found.errors) == batches.MOST_ERRORS


def test_deleted_file_is_an_error() -> None:
    with pytest.raises(LineError, match="deleted"):
        index(lambda number: None, CHAT, 100, lambda: None)
    found, _ = indexed(encoded(line(0)))
    with pytest.raises(LineError, match="deleted"):
        Lines(lambda number: None, 100, found).read(0)


def test_prompts_with_a_common_beginning_follow_one_another() -> None:
    texts = [f"{'abc'[i % 3] * 3000}{i}" for i in range(30)]
    found, lines = indexed(encoded(*(line(i, text) for i, text in enumerate(texts))), 4096)
    beginnings = [text_of(lines.read(i))[:3000] for i in found.order]
    changes = sum(a != b for a, b in pairwise(beginnings))
    assert changes == 2


def test_pieces_in_memory_are_bounded() -> None:
    found, lines = indexed(encoded(*(line(i, "x" * 150) for i in range(100))))
    for number in found.order:
        lines.read(number)
        assert len(lines._held) <= input_file.HELD


@given(st.binary(max_size=2000), st.binary(max_size=300), st.binary(max_size=300))
def test_keys_of_texts_share_what_the_texts_share(common: bytes, one: bytes, other: bytes) -> None:
    steps = [step for step in range(input_file.STEPS) if input_file.SHORTEST << step <= len(common)]
    shared = len(steps) * input_file.DIGEST
    assert prefix_key(common + one)[:shared] == prefix_key(common + other)[:shared]


def test_body_is_sent_as_it_was_uploaded() -> None:
    data = b'{"custom_id":"a","method":"POST","url":"%s","body": {"model": "m",  "n" :1.50} }'
    found, lines = indexed(data % CHAT.encode() + b"\r\n")
    assert lines.read(found.order[0]) == RawLine("a", "m", b'{"model": "m",  "n" :1.50}')
