"""Splits a long text, so that a backend can tokenize it piece by piece.

A server.cpp of 2023 searches the rest of the text for every mark of a chat template: a text of
10 000 messages takes it minutes, the same text in pieces a few seconds. Between two pieces the
caller can stop, if the context is exceeded or the client has left.

A cut is safe if no token crosses it. Good places are before a mark, which is a token of its own,
and between two words. No rule holds for every tokenizer, so these are only candidates: the caller
checks them by tokenizing the characters around the cut (`near`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

SIZE = 8192  # characters of a piece
NEAR = 64  # characters on each side that show whether a cut is safe
TRIES = 3  # candidates of each kind in one window

MARK = re.compile(r"<[|\uff5c][^\s<>]{1,48}>|</?[a-z_]{1,32}>|\[/?[A-Z_]{2,32}\]")
WORD = re.compile(r"(?<=[^\W_]) (?=[^\W_])")
SPACE = re.compile(r"(?<=\S)(?=\s)")
CLAUSE = re.compile(r"(?<=[\n。，！？；：、.!?;,])(?=[^\W\d_])|(?<=[^\W\d_])(?=[。，！？；：、])")


def candidates(text: str, start: int, end: int) -> Iterator[int]:
    """Offsets from `start` to `end` at which the text may be cut, best first."""
    for kind in (MARK, WORD, SPACE, CLAUSE):
        starts = [match.start() for match in kind.finditer(text, start, end)]
        yield from reversed(starts[-TRIES:])


def near(text: str, at: int) -> tuple[str, str]:
    """The characters before and after a cut."""
    return text[max(0, at - NEAR) : at], text[at : at + NEAR]
