"""Text into chunks, at the best place there is: between paragraphs, else sentences (English or
Chinese), else clauses, else words, else anywhere.

Pure. Every character of the text is in some chunk, in order; a chunk has at most `size` characters,
and begins with at most `overlap` of the one before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .values import Splitting

# What a chunk may end after, the best first.
ENDS = (
    re.compile(r"\n\s*\n\s*"),
    re.compile(r"[。！？!?；…]+[”’」』）)\"']*\s*|[.]+[\"')\]]*\s+|\n"),
    re.compile(r"[，、,;:：]\s*"),
    re.compile(r"\s+"),
)
LEAST = 0.4  # a better end is taken where it leaves at least this share of a chunk


class Section(NamedTuple):
    """A piece of a document that has one place: a page, what stands under a heading, lines."""

    place: str
    text: str


class Piece(NamedTuple):
    """A chunk that is not yet anybody's."""

    place: str
    text: str


def spans(text: str, splitting: Splitting) -> Iterator[tuple[int, int]]:
    """Where each chunk begins and ends."""
    begin = 0
    while begin < len(text):
        end = _end(text, begin, splitting.size)
        yield begin, end
        if end == len(text):
            return
        begin = _again(text, begin, end, splitting.overlap)


def split(text: str, splitting: Splitting) -> list[str]:
    """The chunks of one text. Blank text has none."""
    chunks = (text[begin:end] for begin, end in spans(text, splitting))
    return [chunk for chunk in chunks if chunk.strip()]


def pieces(sections: Iterable[Section], splitting: Splitting) -> Iterator[Piece]:
    """The chunks of a document. Small sections that follow each other share a chunk, which has the
    place of the first."""
    place, held = "", ""
    for section in sections:
        text = section.text.strip()
        if not text:
            continue
        if held and len(held) + 2 + len(text) <= splitting.size and _beside(place, section.place):
            held += "\n\n" + text
            continue
        if held:
            yield from (Piece(place, chunk) for chunk in split(held, splitting))
        place, held = section.place, text
    if held:
        yield from (Piece(place, chunk) for chunk in split(held, splitting))


def _beside(one: str, other: str) -> bool:
    """Pages and rows are apart; what stands under headings of one parent may be together."""
    return one == other or (" > " in other and other.startswith(one))


def _end(text: str, begin: int, size: int) -> int:
    """Where a chunk that begins there ends."""
    if len(text) - begin <= size:
        return len(text)
    window = text[begin : begin + size]
    for ends in ENDS:
        last = 0
        for found in ends.finditer(window):
            last = found.end()
        if last >= LEAST * size:
            return begin + last
    return begin + size


def _again(text: str, begin: int, end: int, overlap: int) -> int:
    """Where the next chunk begins: up to `overlap` characters back, at the start of a sentence,
    clause or word if there is one, and always further on than this one began."""
    first = max(end - overlap, begin + 1)
    if first >= end:
        return end
    window = text[first:end]
    for ends in ENDS[1:]:
        found = ends.search(window)
        if found and found.end() < len(window):
            return first + found.end()
    return first
