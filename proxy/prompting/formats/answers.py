"""Answers whose reasoning stands between tags, before text in which marks open calls.

Reasoning begins at the start of the answer, or in the prompt. White space before the opening tag,
around the reasoning, and newlines after the closing tag belong to the format.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .base import Tools
from .reader import Body, CallReader, Malformed, Reading, ReasoningPiece, Wait

Read = Callable[[CallReader, Tools, str], Wait]


def answer(
    tags: tuple[str, str],
    marks: Sequence[str],
    read: Read,
    *,
    breaks: bool = False,
    end: str = "",
) -> Callable[[Tools], Body]:
    """The body of a format with reasoning between `tags` and text behind it.

    ``read`` continues after one of ``marks`` and raises Malformed if there is no call; without
    tools, marks are text. With `breaks`, a call ends the reasoning too, for models that forget the
    closing tag. `end` may end the answer as text."""

    def body(tools: Tools) -> Body:
        opening = tuple(marks) if tools else ()

        def run(reader: CallReader) -> Wait:
            yield from reasoning(reader, tags, opening if breaks else (), read, tools)
            yield from text(reader, tools, opening, read, end)

        return run

    return body


def reasoning(
    reader: CallReader, tags: tuple[str, str], marks: Sequence[str], read: Read, tools: Tools
) -> Wait:
    """Reads reasoning at the start of an answer, if there is some, up to its end or a call."""
    reader.keep()
    yield from reader.spaces()
    tag = yield from reader.skip_one(tags)
    if tag is None:
        reader.rewind()
        return
    if tag == tags[0]:
        yield from reader.spaces()
        if (yield from reader.skip(tag)):  # some models repeat the prompt's tag
            yield from reader.spaces()
        if (yield from thoughts(reader, tags[1:], marks, read, tools)) != tags[1]:
            return
    while (yield from reader.skip("\n")):
        pass


def thoughts(
    reader: CallReader, ends: Sequence[str], marks: Sequence[str], read: Read, tools: Tools
) -> Reading[str]:
    """Reads reasoning up to one of `ends` or a call, and returns the mark that ended it."""
    reader.begin_text(ReasoningPiece)
    while mark := (yield from reader.text_until(marks, ends)):
        if mark in ends or (yield from opened(reader, tools, mark, read)):
            break
    reader.begin_text()
    return mark


def text(reader: CallReader, tools: Tools, marks: Sequence[str], read: Read, end: str = "") -> Wait:
    """Reads text with calls up to the end of the answer, which may be written as `end`."""
    ends = (end,) if end else ()
    while mark := (yield from reader.text_until(marks, ends)):
        if mark not in ends:
            yield from opened(reader, tools, mark, read)
        elif (yield from last(reader)):
            return
        else:
            reader.degrade()


def opened(reader: CallReader, tools: Tools, mark: str, read: Read) -> Reading[bool]:
    """Reads what the mark opens; False if that is no call."""
    calls = reader.calls
    try:
        yield from read(reader, tools, mark)
        reader.accept()
    except Malformed:
        reader.degrade(len(mark))
    return reader.calls > calls


def last(reader: CallReader) -> Reading[bool]:
    """Whether nothing but white space follows."""
    yield from reader.spaces()
    return not (yield from reader.more())


def marks_in(*marks: str, without: Sequence[str] = ()) -> Callable[[str], bool]:
    """Whether a template's source contains all of ``marks`` and none of `without`."""
    return lambda source: all(m in source for m in marks) and not any(m in source for m in without)
