"""Input files of batches: reading their lines, and errors in them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.apis.batches import objects as batches
from proxy.apis.batches.objects import LineError
from proxy.batches.input_file import InputFile, Line

CHAT = "/v1/chat/completions"


def line(number: int, text: str = "Hi", **changes: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    made = {"custom_id": f"l{number}", "method": "POST", "url": CHAT, "body": body}
    return {**made, **changes}


def text_of(read: Line) -> str:
    return str(json.loads(read.body)["messages"][0]["content"])


def encoded(*values: Any) -> bytes:
    return b"\n".join(v if isinstance(v, bytes) else json.dumps(v).encode() for v in values)


def indexed(data: bytes, size: int = 100, longest: int = 10_000) -> InputFile:
    def piece(number: int) -> bytes | None:
        return data[number * size : (number + 1) * size] or None

    file = InputFile(piece, size, CHAT, longest)
    file.check(lambda: None)
    return file


@given(st.integers(1, 500), st.lists(st.text(max_size=80), min_size=1, max_size=20), st.booleans())
def test_lines_are_read_whatever_the_size_of_pieces(
    size: int, texts: list[str], newline: bool
) -> None:
    data = encoded(*(line(i, text) for i, text in enumerate(texts))) + b"\n\n" * newline
    lines = indexed(data, size)
    assert not lines.errors and len(lines) == len(texts)
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
    file = indexed(encoded(line(0), b"", wrong, line(2)))
    assert [(error["line"], error["code"]) for error in file.errors] == [(3, code)]


@pytest.mark.parametrize("data", [b"\n", b"\n \n"])
def test_file_without_lines_is_an_error(data: bytes) -> None:
    assert [error["code"] for error in indexed(data).errors] == ["empty_file"]


@pytest.mark.parametrize(
    ("fits", "more", "place"),
    [
        (encoded(*map(line, range(3))), encoded(*map(line, range(9))), 4),
        (encoded(line(0)) + b"\n" * 5, encoded(line(0)) + b"\n" * 10**6, 7),  # blank ones
    ],
)
def test_number_of_lines_is_bounded(
    monkeypatch: pytest.MonkeyPatch, fits: bytes, more: bytes, place: int
) -> None:
    monkeypatch.setattr(batches, "MOST_LINES", 3)
    assert not indexed(fits).errors
    errors = indexed(more).errors
    assert [(error["line"], error["code"]) for error in errors] == [(place, "too_many_requests")]


def test_number_of_errors_is_bounded() -> None:
    file = indexed(b"x\n" * 1000)
    assert len(file.errors) == batches.MOST_ERRORS


def test_deleted_file_is_an_error() -> None:
    with pytest.raises(LineError, match="deleted"):
        indexed(b"")
    pieces = [encoded(line(0)), None, None]
    file = InputFile(lambda number: pieces.pop(0), 1000, CHAT, 10_000)
    file.check(lambda: None)
    with pytest.raises(LineError, match="deleted"):
        file.read(0)


def test_body_is_sent_as_it_was_uploaded() -> None:
    data = b'{"custom_id":"a","method":"POST","url":"%s","body": {"model": "m",  "n" :1.50} }'
    lines = indexed(data % CHAT.encode() + b"\r\n")
    assert lines.read(0) == Line("a", "m", b'{"model": "m",  "n" :1.50}')
