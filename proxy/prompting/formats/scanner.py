"""Finds the end of a JSON value in a stream."""

from __future__ import annotations

import json
import re
from typing import NoReturn

MAX_DEPTH = 128

_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_SPACE = re.compile(r"[ \t\n\r]+")
_WORD = re.compile(r"[-+.0-9A-Za-z]+")
_BETWEEN = re.compile(r"[-+.0-9A-Za-z,: \t\n\r]+")
_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f"}
_CLOSING = {"{": "}", "[": "]"}


class JsonScanner:
    """Scans one value until it is ``done`` or has ``failed``, at a character that no value has or a
    bracket that does not match; whether it is JSON, :func:`is_json` tells at its end. Raw control
    characters in strings (models write newlines into code) are escaped."""

    __slots__ = ("_closing", "_escaped", "_in_string", "_is_word", "done", "failed")

    def __init__(self) -> None:
        self.done = False
        self.failed = False
        self._closing: list[str] = []  # the brackets that must come
        self._in_string = False
        self._escaped = False  # behind a backslash
        self._is_word = False  # the value is a number, true, false or null

    def scan(self, text: str, start: int = 0) -> tuple[int, str]:
        """Continues at ``text[start:]``; returns where it stopped and the JSON it passed."""
        out: list[str] = []
        at = start
        while at < len(text) and not (self.done or self.failed):
            passed = (
                self._string(text, at, out) if self._in_string else self._outside(text, at, out)
            )
            at += passed
        return at, "".join(out)

    def finish(self) -> bool:
        """At the end of the text: whether the value is complete (a bare number may be)."""
        self.done = self.done or (self._is_word and not self.failed)
        return self.done

    def _string(self, text: str, at: int, out: list[str]) -> int:
        match = None if self._escaped else _PLAIN.match(text, at)
        if match is not None:
            out.append(match[0])
            return len(match[0])
        char = text[at]
        if char == '"' and not self._escaped:
            self._in_string = False
            self.done = not self._closing
        self._escaped = char == "\\" and not self._escaped
        out.append(_ESCAPES.get(char) or (char if char >= " " else f"\\u{ord(char):04x}"))
        return 1

    def _outside(self, text: str, at: int, out: list[str]) -> int:
        char = text[at]
        pattern = _BETWEEN if self._closing else _WORD if self._is_word else _SPACE
        match = pattern.match(text, at)
        if match is not None:
            out.append(match[0])
            return len(match[0])
        if self._is_word:
            self.done = True
            return 0
        if char == '"':
            self._in_string = True
        elif char in _CLOSING:
            self._closing.append(_CLOSING[char])
            self.failed = len(self._closing) > MAX_DEPTH
        elif self._closing and char == self._closing[-1]:
            self._closing.pop()
            self.done = not self._closing
        elif not self._closing and _WORD.match(char):
            self._is_word = True
            return 0
        else:
            self.failed = True
        if self.failed:
            return 0
        out.append(char)
        return 1


def is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> NoReturn:
    """NaN and the infinities are no JSON."""
    raise ValueError(constant)
