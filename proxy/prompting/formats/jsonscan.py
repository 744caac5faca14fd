"""Finds the end of a JSON value in a stream and validates it, reading each character once.

The value is RFC 8259 JSON with one exception: raw control characters in strings (models write
newlines into code) are escaped, so the output is always valid JSON. The scanner stops at the first
character that cannot belong to the value.
"""

from __future__ import annotations

import re

MAX_DEPTH = 128

_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_SPACE = re.compile(r"[ \t\n\r]*")
_TOKEN = re.compile(r"[-+.0-9A-Za-z]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_NUMBER_HEAD = re.compile(
    r"-?(?:(?:0|[1-9][0-9]*)(?:\.(?:[0-9]+(?:[eE][-+]?[0-9]*)?)?|[eE][-+]?[0-9]*)?)?"
)
_WORDS = ("true", "false", "null")
_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f"}


class JsonScanner:
    """Scans one value. ``done`` or ``failed`` is set once :meth:`scan` has stopped for good."""

    __slots__ = ("_escape", "_stack", "_state", "_token", "done", "failed")

    def __init__(self) -> None:
        self.done = False
        self.failed = False
        self._stack: list[str] = []  # open "{" and "["
        # value | first (value or "]") | key | firstkey (key or "}") | colon | next (comma or end)
        # | string | keystring | token
        self._state = "value"
        self._escape = 0  # remaining characters of an escape; -1: its letter
        self._token = ""

    def scan(self, text: str, start: int = 0) -> tuple[int, str]:
        """Continues at ``text[start:]``; returns where it stopped and the JSON it passed."""
        out: list[str] = []
        at = start
        while at < len(text) and not (self.done or self.failed):
            if self._state in ("string", "keystring"):
                at = self._in_string(text, at, out)
            elif self._state == "token":
                at = self._in_token(text, at, out)
            else:
                at = self._between(text, at, out)
        return at, "".join(out)

    def finish(self) -> bool:
        """At the end of the text: whether the value is complete (a bare number may be)."""
        if not self.done and not self.failed and self._state == "token" and not self._stack:
            self._end_token()
        return self.done

    def _in_string(self, text: str, at: int, out: list[str]) -> int:
        if self._escape:
            return self._in_escape(text, at, out)
        match = _PLAIN.match(text, at)
        assert match is not None
        end = match.end()
        if end < len(text):
            char = text[end]
            if char == '"':
                end += 1
                if self._state == "string":
                    self._after_value()
                else:
                    self._state = "colon"
            elif char == "\\":
                end += 1
                self._escape = -1
            else:
                out.append(text[at:end])
                out.append(_ESCAPES.get(char) or f"\\u{ord(char):04x}")
                return end + 1
        out.append(text[at:end])
        return end

    def _in_escape(self, text: str, at: int, out: list[str]) -> int:
        char = text[at]
        if self._escape == -1:
            if char not in '"\\/bfnrtu':
                self.failed = True
                return at
            self._escape = 4 if char == "u" else 0
        else:
            if char not in "0123456789abcdefABCDEF":
                self.failed = True
                return at
            self._escape -= 1
        out.append(char)
        return at + 1

    def _in_token(self, text: str, at: int, out: list[str]) -> int:
        match = _TOKEN.match(text, at)
        assert match is not None
        # Character by character, since numbers and words are short.
        for end in range(at, match.end()):
            token = self._token + text[end]
            if len(token) > 400 or not _may_be(token):
                self.failed = True
                out.append(text[at:end])
                return end
            self._token = token
        out.append(text[at : match.end()])
        if match.end() < len(text):
            self._end_token()
        return match.end()

    def _end_token(self) -> None:
        if self._token in _WORDS or _NUMBER.fullmatch(self._token):
            self._token = ""
            self._after_value()
        else:
            self.failed = True

    def _between(self, text: str, at: int, out: list[str]) -> int:
        match = _SPACE.match(text, at)
        assert match is not None
        if match.end() > at:
            out.append(text[at : match.end()])
            return match.end()
        char = text[at]
        if not self._take(char):
            self.failed = True
            return at
        if self._state != "token":
            out.append(char)
            return at + 1
        return at  # _in_token reads the whole token

    def _take(self, char: str) -> bool:
        """Whether a character may follow here; updates the state."""
        state = self._state
        if state in ("value", "first"):
            if char in "{[":
                self._stack.append(char)
                self._state = "firstkey" if char == "{" else "first"
                return len(self._stack) <= MAX_DEPTH
            if char == "]" and state == "first":
                self._close()
            elif char == '"':
                self._state = "string"
            elif char in "-0123456789tfn":
                self._state = "token"
            else:
                return False
        elif state in ("key", "firstkey"):
            if char == '"':
                self._state = "keystring"
            elif char == "}" and state == "firstkey":
                self._close()
            else:
                return False
        elif state == "colon":
            self._state = "value"
            return char == ":"
        elif char == ",":
            self._state = "key" if self._stack[-1] == "{" else "value"
        elif char == ("}" if self._stack[-1] == "{" else "]"):
            self._close()
        else:
            return False
        return True

    def _close(self) -> None:
        self._stack.pop()
        self._after_value()

    def _after_value(self) -> None:
        self._state = "next"
        self.done = not self._stack


def _may_be(token: str) -> bool:
    return bool(_NUMBER_HEAD.fullmatch(token)) or any(w.startswith(token) for w in _WORDS)


def is_json(text: str) -> bool:
    """Whether ``text`` is one JSON value, nested at most MAX_DEPTH deep."""
    scanner = JsonScanner()
    end, _ = scanner.scan(text)
    return scanner.finish() and not text[end:].strip(" \t\n\r")
