"""Incremental decoding of tokens: no blank is lost, no character is split."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.chatglm.engine import Incremental

# Bytes of text, as in a byte-level vocabulary; the first blank is dropped, as by sentencepiece.
PIECES = [b"\xe2\x96\x81Hello", b"\xe2\x96\x81", b"world", b"\n", b",", b"!", b"a"]
PIECES += [bytes([one]) for one in "你😀é".encode()] + [b"\xff"]
BLANK = "\N{LOWER ONE EIGHTH BLOCK}"


def decode(ids: Sequence[int]) -> str:
    text = b"".join(PIECES[one] for one in ids).decode("utf-8", "replace")
    return text.removeprefix(BLANK).replace(BLANK, " ")


def all_of(ids: Sequence[int], unsure: tuple[str, ...] = ()) -> list[str]:
    one = Incremental(decode, unsure)
    return [*(one.add(token) for token in ids), one.close()]


@given(st.lists(st.integers(0, len(PIECES) - 1), max_size=30), st.sampled_from([(), (",", "!")]))
def test_pieces_join_to_the_text(ids: list[int], unsure: tuple[str, ...]) -> None:
    assert "".join(all_of(ids, unsure)) == decode(ids)


def test_character_is_emitted_whole() -> None:
    first = PIECES.index(bytes([0xE4]))
    assert all_of([6, first, first + 1, first + 2]) == ["a", "", "", "你", ""]


def test_character_after_many_invalid_bytes_is_emitted_whole() -> None:
    garbage, first = len(PIECES) - 1, PIECES.index(bytes([0xE4]))
    assert "".join(all_of([garbage] * 5 + [first, first + 1, first + 2])).endswith("\ufffd你")


def test_invalid_bytes_are_not_held_forever() -> None:
    garbage = len(PIECES) - 1
    assert "".join(all_of([garbage] * 20)[:-1]) != ""


def test_blanks_between_words_are_kept() -> None:
    assert all_of([0, 0, 3, 0]) == ["Hello", " Hello", "\n", " Hello", ""]


def test_ambiguous_character_waits_for_the_next_token() -> None:
    assert all_of([6, 4, 6], (",",)) == ["a", "", ",a", ""]
