"""Finds marks in streamed text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def first_of(text: str, marks: Sequence[str]) -> tuple[int, str]:
    """Position and text of the first mark, the longer of two at one position; -1 if there is
    none."""
    found = [(text.find(mark), -len(mark), mark) for mark in marks]
    at, _, mark = min((match for match in found if match[0] >= 0), default=(-1, 0, ""))
    return at, mark


def overlap(text: str, marks: Iterable[str]) -> int:
    """Length of the longest tail that may become a mark."""
    longest = 0
    for mark in marks:
        for length in range(min(len(mark) - 1, len(text)), longest, -1):
            if text.endswith(mark[:length]):
                longest = length
                break
    return longest


def common_start(one: str, other: str) -> str:
    """The longest beginning that both texts have."""
    size = min(len(one), len(other))
    at = next((i for i in range(size) if one[i] != other[i]), size)
    return one[:at]


def common_end(one: str, other: str) -> str:
    """The longest end that both texts have."""
    return common_start(one[::-1], other[::-1])[::-1]
