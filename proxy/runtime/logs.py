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
from typing import Any

ACCESS = "slotproxy.access"  # the logger of the lines of requests, which are ready-made
LEVELS = {"WARNING": "warn", "CRITICAL": "error"}  # by Python's name, where it is not the same
DIM, RED, GREEN, YELLOW = 2, 31, 32, 33
COLOURS = {"warn": YELLOW, "error": RED}
INDENT = f"\n{'':15}"  # of further lines of a message: none of them looks like a line of the log

_last = _last_clock = (0, "")


def stamp(second: int) -> str:
    """The time in UTC, such as 2026-01-02T03:04:05Z; formatted once a second."""
    global _last
    if _last[0] != second:
        _last = second, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))
    return _last[1]


def clock(second: int) -> str:
    """The local time of day, such as 03:04:05; formatted once a second."""
    global _last_clock
    if _last_clock[0] != second:
        _last_clock = second, time.strftime("%H:%M:%S", time.localtime(second))
    return _last_clock[1]


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
        level = LEVELS.get(record.levelname, record.levelname.lower())
        traceback = ""
        if record.exc_info:
            traceback = logging.Formatter().formatException(record.exc_info)
        if self.is_text:
            lines = [*message.split("\n"), *traceback.split("\n")] if traceback else [message]
            text = INDENT.join(map(printable, "\n".join(lines).split("\n")))
            at = self.coloured(clock(int(record.created)), DIM)
            return f"{at} {self.coloured(f'{level:<5}', COLOURS.get(level))} {text}"
        values = {"time": stamp(int(record.created)), "level": level, "message": message}
        values |= getattr(record, "fields", {})
        if traceback:
            values["traceback"] = traceback
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
