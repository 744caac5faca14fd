"""Late binding: lines of the system message that change with each request, such as a clock, are
moved to its end, so that the text behind them stays in the prompt cache. Pure.

The operator names the lines by their beginnings. No other text is touched, and no other role's."""

from __future__ import annotations

import re
from bisect import bisect_left
from functools import lru_cache
from itertools import accumulate

from msgspec import structs

from .conversation import head_of, joined
from .request import CompletionRequest, Message

HEADING = "Now:"
LOOKED = 1 << 15  # characters of a message in which lines are looked for
MOST = 32  # rules of a key,
LONGEST = 200  # and characters of one
WARNING = "late_binding: moved to the end of the system message, under {!r}: {} line{}"


def rule(text: str) -> str:
    """The rule, if it is one. Raises ValueError."""
    # One of stars alone would move every line.
    if not text.strip(" *") or len(text) > LONGEST or not text.isprintable():
        raise ValueError(
            f"expected the beginning of a line, where `*` stands for any text, of at most {LONGEST}"
            f" characters, got {text[:60]!r}"
        )
    return text


@lru_cache(64)
def _lines(rules: tuple[str, ...]) -> re.Pattern[str]:
    """The lines that begin so. Atomic groups, which are never tried again, keep it linear."""
    starts = []
    for rule in rules:
        first, *others = map(re.escape, rule.split("*"))
        starts.append(first + "".join(f"(?>.*?{part})" for part in others))
    return re.compile(f"^(?:{'|'.join(starts)}).*\n?", re.MULTILINE)


def late_bound(
    request: CompletionRequest, rules: tuple[str, ...], *, apart: bool
) -> CompletionRequest:
    """The request with the lines of its first system messages that the rules name behind the last
    of these, unless nothing else follows them. They are a system message of their own if they may
    stand `apart`: many templates write the tools behind the first one."""
    head = head_of(request.messages)
    kept: list[Message] = []
    lines: list[str] = []
    moves = False
    for message in reversed(request.messages[:head]):
        rest, named, begin = _without(message, _lines(rules))
        moves = moves or bool(named and (kept or rest.content[begin:].strip()))
        lines[:0] = named
        if rest.content.strip() or rest.media:
            kept.insert(0, rest)
    if not moves:
        return request
    cites = any(message.cites for message in request.messages[:head])
    now = Message(role="system", content="\n".join((HEADING, *lines)), cites=cites)
    if not apart:
        now = joined(kept.pop(), now)
    warning = WARNING.format(HEADING, len(lines), "s" if len(lines) > 1 else "")
    messages = (*kept, now, *request.messages[head:])
    return structs.replace(request, messages=messages, warnings=(*request.warnings, warning))


def _without(message: Message, pattern: re.Pattern[str]) -> tuple[Message, list[str], int]:
    """The message without the lines of the pattern, these, and where the first one began."""
    text, parts = message.content, message.parts
    looked = len(text) if len(text) <= LOOKED else text.rfind("\n", 0, LOOKED) + 1
    found = [] if message.media else [*pattern.finditer(text, 0, looked)]
    if not found:
        return message, [], 0
    text = pattern.sub("", text[:looked]) + text[looked:]
    begins = [line.start() for line in found]
    removed = [0, *accumulate(len(line[0]) for line in found)]
    parts = tuple(part - removed[bisect_left(begins, part)] for part in parts)  # they begin lines
    parts = tuple(part for part in dict.fromkeys(parts) if part < len(text))
    rest = structs.replace(message, content=text, parts=parts)
    return rest, [line[0].rstrip("\r\n") for line in found], begins[0]
