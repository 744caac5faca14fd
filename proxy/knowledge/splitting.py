"""Splits text into sections, each with a description of its place, and those into chunks. Pure.

A chunk has at most `size` characters and ends at the best place: between paragraphs, else
sentences, clauses or words. It begins with at most `overlap` characters of the previous one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..store.records import Splitting

# Where a chunk may end, the best first.
ENDS = (
    r"\n\s*\n\s*",
    r"[。！？!?；…]+[”’」』）)\"']*\s*|[.]+[\"')\]]*\s+|\n",
    r"[，、,;:：]\s*",
    r"\s+",
)
LINES = 40  # plain-text lines per section
_HEADING = r"^(#{1,6})\s+(.+?)\s*#*\s*$"
_SLIDE = r"^<!--\s*Slide number:\s*(\d+)\s*-->\s*$"
_FENCE = r"^\s*(```|~~~)"
LEAST = 0.4  # a better end is used if the chunk keeps at least this share of its size


class Section(NamedTuple):
    """A part of a document with one place: a page, the text under a heading, lines, or a chunk."""

    place: str
    text: str


def of_markdown(text: str) -> Iterator[Section]:
    """Yield the text under each heading, whose place is the path of headings; slides by number."""
    path: list[tuple[int, str]] = []
    place = ""
    held: list[str] = []
    fenced = False
    for line in text.splitlines():
        if re.match(_FENCE, line):
            fenced = not fenced
        heading = None if fenced else re.match(_HEADING, line)
        slide = re.match(_SLIDE, line)
        if heading or slide:
            yield Section(place, "\n".join(held))
            held = []
        if slide:
            path, place = [], f"slide {slide[1]}"
            continue
        if heading:
            depth = len(heading[1])
            path = [(deep, name) for deep, name in path if deep < depth]
            path.append((depth, heading[2][:80]))
            if not place.startswith("slide "):
                place = " > ".join(name for _, name in path)
        held.append(line)
    yield Section(place, "\n".join(held))


def of_plain(text: str) -> Iterator[Section]:
    """Yield lines with their line numbers; sections end at the end of a paragraph if possible."""
    lines = text.splitlines()
    begin = 0
    for number, line in enumerate(lines):
        full = number - begin + 1 >= LINES
        if (full and not line.strip()) or number - begin + 1 >= 2 * LINES:
            yield _of_lines(lines, begin, number + 1)
            begin = number + 1
    if begin < len(lines):
        yield _of_lines(lines, begin, len(lines))


def _of_lines(lines: list[str], begin: int, end: int) -> Section:
    place = f"line {begin + 1}" if end == begin + 1 else f"lines {begin + 1}-{end}"
    return Section(place, "\n".join(lines[begin:end]))


def spans(text: str, splitting: Splitting) -> Iterator[tuple[int, int]]:
    begin = 0
    while begin < len(text):
        end = _end(text, begin, splitting.size)
        yield begin, end
        if end == len(text):
            return
        begin = _again(text, begin, end, splitting.overlap)


def split(text: str, splitting: Splitting) -> list[str]:
    """Return the chunks of a text; none for blank text."""
    chunks = (text[begin:end] for begin, end in spans(text, splitting))
    return [chunk for chunk in chunks if chunk.strip()]


def pieces(sections: Iterable[Section], splitting: Splitting) -> Iterator[Section]:
    """Yield the chunks. Small consecutive sections share a chunk, with the place of the first."""
    place, held = "", ""
    for section in sections:
        text = section.text.strip()
        if not text:
            continue
        # Headings with the same parent may share a chunk, pages not.
        is_near = section.place == place
        is_near = is_near or (" > " in section.place and section.place.startswith(place))
        if held and is_near and len(held) + 2 + len(text) <= splitting.size:
            held += "\n\n" + text
            continue
        if held:
            yield from (Section(place, chunk) for chunk in split(held, splitting))
        place, held = section.place, text
    if held:
        yield from (Section(place, chunk) for chunk in split(held, splitting))


def _end(text: str, begin: int, size: int) -> int:
    if len(text) - begin <= size:
        return len(text)
    window = text[begin : begin + size]
    for ends in ENDS:
        last = 0
        for match in re.finditer(ends, window):
            last = match.end()
        if last >= LEAST * size:
            return begin + last
    return begin + size


def _again(text: str, begin: int, end: int, overlap: int) -> int:
    """Return the start of the next chunk: up to `overlap` characters back, at the start of a
    sentence, clause or word if possible, and always after the start of this chunk."""
    first = max(end - overlap, begin + 1)
    if first >= end:
        return end
    window = text[first:end]
    for ends in ENDS[1:]:
        match = re.search(ends, window)
        if match and match.end() < len(window):
            return first + match.end()
    return first
