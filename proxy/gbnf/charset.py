"""Character sets as sorted, disjoint, inclusive ranges of code points."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache

from .values import MAX_CODE_POINT

Charset = tuple[tuple[int, int], ...]

ANY: Charset = ((0, 0xD7FF), (0xE000, MAX_CODE_POINT))
"""Every character; surrogates are not characters."""


def normal(ranges: Iterable[tuple[int, int]]) -> Charset:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            if high > merged[-1][1]:
                merged[-1] = (merged[-1][0], high)
        else:
            merged.append((low, high))
    return tuple(merged)


@lru_cache(maxsize=2000)
def of(chars: str) -> Charset:
    return normal((ord(char), ord(char)) for char in chars)


def union(*sets: Charset) -> Charset:
    return normal(part for charset in sets for part in charset)


def gaps(charset: Charset) -> Charset:
    """All code points outside the set, including surrogates."""
    ranges, start = [], 0
    for low, high in charset:
        if start < low:
            ranges.append((start, low - 1))
        start = high + 1
    if start <= MAX_CODE_POINT:
        ranges.append((start, MAX_CODE_POINT))
    return tuple(ranges)


def intersection(left: Charset, right: Charset) -> Charset:
    ranges = []
    i = j = 0
    while i < len(left) and j < len(right):
        low, high = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if low <= high:
            ranges.append((low, high))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return tuple(ranges)


def complement(charset: Charset) -> Charset:
    return intersection(ANY, gaps(charset))


def difference(left: Charset, right: Charset) -> Charset:
    return intersection(left, gaps(right))


def contains(charset: Charset, code: int) -> bool:
    at = bisect_right(charset, (code, MAX_CODE_POINT + 1)) - 1
    return at >= 0 and charset[at][1] >= code


UNESCAPED = difference(ANY, ((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C)))
"""The characters that a JSON string may hold as they are."""
