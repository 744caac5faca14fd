"""Splits text into sections, each with a description of its place. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .splitting import Section

LINES = 40  # plain-text lines per section
_HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*\s*$")
_SLIDE = re.compile(r"^<!--\s*Slide number:\s*(\d+)\s*-->\s*$")
_FENCE = re.compile(r"^\s*(```|~~~)")


def of_markdown(text: str) -> Iterator[Section]:
    """Yield the text under each heading, with the path of headings as its place; slides by
    number."""
    path: list[tuple[int, str]] = []
    place = ""
    held: list[str] = []
    fenced = False
    for line in text.splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        heading = None if fenced else _HEADING.match(line)
        slide = _SLIDE.match(line)
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
