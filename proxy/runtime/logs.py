"""The log, on standard error: lines of text for people on a terminal, JSON for programs.

A message in JSON is an object with `time`, `level` and `message`, and with `traceback` for a
defect. `extra={"fields": {…}}` of a logging call adds fields. The lines of requests are made by
`proxy.web.observability`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from functools import lru_cache
from typing import Any

ACCESS = "slotproxy.access"  # the logger of the lines of requests, which are ready-made
DIM, RED, GREEN, YELLOW = 2, 31, 32, 33
COLOURS = {"warning": YELLOW, "error": RED}
INDENT = f"\n{'':15}"  # of further lines of a message: none of them looks like a line of the log


@lru_cache(2)
def stamp(second: int) -> str:
    """The time in UTC, such as 2026-01-02T03:04:05Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))


@lru_cache(2)
def clock(second: int) -> str:
    """The local time of day, such as 03:04:05."""
    return time.strftime("%H:%M:%S", time.localtime(second))


def printable(text: str) -> str:
    """The text with its control characters escaped: a terminal would obey them."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Lines(logging.StreamHandler[Any]):
    """The handler of the log. `is_text`: for people; `has_colour`: with colours too."""

    def __init__(self, form: str = "json") -> None:
        super().__init__()
        is_terminal = self.stream.isatty()
        self.is_text = form == "text" or (form == "auto" and is_terminal)
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
        self.has_colour = self.is_text and is_terminal and not plain

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.name == ACCESS:
            return message
        level = record.levelname.lower()
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        if self.is_text:
            lines = f"{message}\n{trace}".rstrip("\n").split("\n")
            at = self.coloured(clock(int(record.created)), DIM)
            name = self.coloured(f"{level.removesuffix('ing'):<5}", COLOURS.get(level))
            return f"{at} {name} {INDENT.join(map(printable, lines))}"
        values = {"time": stamp(int(record.created)), "level": level, "message": message}
        values |= getattr(record, "fields", {}) | ({"traceback": trace} if trace else {})
        return json.dumps(values, ensure_ascii=False, separators=(",", ":"))

    def coloured(self, text: str, colour: int | None) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self.has_colour and colour else text


def begin(form: str, level: str) -> None:
    """Begin the log of this process, if it has none yet."""
    logging.basicConfig(handlers=[Lines(form)], level=level.upper())


def say(text: str, level: int = logging.INFO) -> None:
    """Write a line at any log level, for the user who starts the server."""
    for handler in logging.root.handlers:
        if type(handler) is Lines:
            handler.handle(logging.LogRecord("slotproxy", level, "", 0, text, None, None))
            return
    print(f"slotproxy: {text}", file=sys.stderr, flush=True)
