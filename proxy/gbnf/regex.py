r"""Parses JSON schema's `pattern`: the regular subset of ECMA-262 expressions.

Validators differ in the meaning of `\d`, `\w`, `\s` and `.` outside ASCII. So each class has two
sets: characters that surely match, which a class uses, and those that possibly match, outside of
which is a negated class. Constructs that are not regular or differ between validators are rejected:
backreferences, lookaround, word boundaries, `\p{...}`, and anchors other than at the ends.
"""

from __future__ import annotations

import re
from typing import NoReturn

from ..core.cache import BoundedCache, digest
from . import charset
from .automaton import (
    ANY_TEXT,
    NOTHING,
    Automaton,
    Chars,
    Concat,
    Either,
    Regex,
    Times,
    compile_regex,
)
from .charset import Charset
from .values import Scanner
from .work_budget import spend

MAX_COUNT = 2_000  # number in a quantifier
MAX_NESTING = 50  # nesting of groups

_DIGIT = ((0x30, 0x39),)
_WORD = charset.union(_DIGIT, ((0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)))
_SPACE_SURE = charset.of(
    "\t\n\v\f\r \u00a0\u1680\u2028\u2029\u202f\u205f\u3000"
    + "".join(map(chr, range(0x2000, 0x200B)))
)
# Spaces in Unicode-aware validators, in addition to ECMA's.
_SPACE_MAYBE = charset.union(_SPACE_SURE, ((0x1C, 0x1F), (0x85, 0x85), (0xFEFF, 0xFEFF)))
# Large ranges that no validator treats as digits, or as letters or digits.
_NEVER_DIGIT = charset.union(
    charset.difference(((0, 0x65F),), _DIGIT),
    ((0x2000, 0xA61F), (0xAC00, 0xD7FF), (0xF900, 0xFF0F), (0xFF1A, 0xFFEF), (0x1F300, 0x1FAFF)),
)
_NEVER_WORD = charset.union(
    charset.difference(((0, 0x7F),), _WORD),
    ((0x2010, 0x2027), (0x2030, 0x203E), (0x20A0, 0x20BF), (0x2190, 0x21FF), (0x3001, 0x3003)),
    ((0x3008, 0x3011), (0xFF01, 0xFF0F), (0xFF1A, 0xFF20), (0x1F300, 0x1F5FF), (0x1F600, 0x1F64F)),
)
_NEVER_SPACE = charset.complement(_SPACE_MAYBE)
_LINE_ENDS = charset.of("\n\r\u2028\u2029")

_Reading = tuple[Charset, Charset]
"""The characters that a class surely matches and those that it possibly matches."""

_CLASSES: dict[str, _Reading] = {
    "d": (_DIGIT, charset.complement(_NEVER_DIGIT)),
    "w": (_WORD, charset.complement(_NEVER_WORD)),
    "s": (_SPACE_SURE, _SPACE_MAYBE),
    "D": (_NEVER_DIGIT, charset.complement(_DIGIT)),
    "W": (_NEVER_WORD, charset.complement(_WORD)),
    "S": (_NEVER_SPACE, charset.complement(_SPACE_SURE)),
}
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}
_SYNTAX = frozenset("^$\\.*+?()[]{}|/-")
_QUANTIFIERS = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_MARKS = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|[()]", re.DOTALL)  # escapes, classes, parentheses
_BRACES = re.compile(r"\{([0-9]+)(,([0-9]*))?\}")
_CODE_POINT = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]+)\}")


class PatternError(ValueError):
    """The pattern is malformed, or outside the regular subset if `unsupported`."""

    def __init__(self, what: str, at: int, unsupported: bool) -> None:
        super().__init__(f"{what} at character {at + 1}")
        self.unsupported = unsupported


def read_pattern(pattern: str) -> Regex:
    """The language of all strings in which `pattern` is found. Raises PatternError."""
    return _read(pattern, within=True)


def read_whole(pattern: str) -> Regex:
    """The language of all strings that `pattern` matches as a whole, anchored or not. Raises
    PatternError."""
    inner = pattern.removeprefix("^")
    if inner.endswith("$") and (len(inner) - len(inner[:-1].rstrip("\\"))) % 2:
        inner = inner[:-1]
    return _read(inner, within=False)


def _read(pattern: str, within: bool) -> Regex:
    spend(2 * len(pattern))
    reader = _Reader(pattern)
    language = reader.alternatives(left=within, right=within)
    if reader.at < len(pattern):
        reader.fail("unbalanced ')'")
    return language


class _Reader(Scanner):
    """A recursive-descent parser with a method for each production.

    `left` and `right` say whether the current part is at the beginning or end of the whole pattern.
    Anchors are allowed only there; without an anchor, any text may come before or after."""

    def fail(self, what: str, unsupported: bool = False) -> NoReturn:
        raise PatternError(what, self.at, unsupported)

    def alternatives(self, left: bool, right: bool) -> Regex:
        sequences = [self.sequence(left, right)]
        while self.take("|"):
            sequences.append(self.sequence(left, right))
        return sequences[0] if len(sequences) == 1 else Either(tuple(sequences))

    def sequence(self, left: bool, right: bool) -> Regex:
        start = self.at
        if left and self.only_a_group(start):
            # `(^a|b$)`: the group's ends are the pattern's ends.
            return self.atom(left, right)
        parts: list[Regex] = []
        open_left, open_right = left, right
        while self.peek() not in ("", "|", ")"):
            if self.take("^"):
                if not left or parts:
                    self.at -= 1
                    self.fail("'^' inside the pattern", unsupported=True)
                open_left = False
            elif self.take("$"):
                if not right or self.peek() not in ("", "|", ")"):
                    self.at -= 1
                    self.fail("'$' inside the pattern", unsupported=True)
                open_right = False
            else:
                parts.append(self.quantified())
        if open_left:
            parts.insert(0, ANY_TEXT)
        if open_right:
            parts.append(ANY_TEXT)
        return parts[0] if len(parts) == 1 else Concat(tuple(parts))

    def only_a_group(self, start: int) -> bool:
        """Whether the sequence that starts here is exactly one group."""
        if self.text[start : start + 1] != "(":
            return False
        depth = 0
        for mark in _MARKS.finditer(self.text, start):
            depth += (mark[0] == "(") - (mark[0] == ")")
            if not depth:
                return self.text[mark.end() : mark.end() + 1] in ("", "|", ")")
        return False

    def quantified(self) -> Regex:
        atom = self.atom(left=False, right=False)
        if self.peek() and self.peek() in "*+?{":
            low, high = self.counts()
            self.take("?")  # lazy; the language is the same
            if self.peek() and self.peek() in "*+?{":
                self.fail("two quantifiers in a row")
            atom = Times(atom, low, high)
        return atom

    def counts(self) -> tuple[int, int | None]:
        mark = self.peek()
        if mark in _QUANTIFIERS:
            self.at += 1
            return _QUANTIFIERS[mark]
        braces = _BRACES.match(self.text, self.at)
        if braces is None:
            self.fail("a count such as {2,3} expected")
        numbers = [number for number in braces.group(1, 3) if number]
        if any(len(number) > 6 or int(number) > MAX_COUNT for number in numbers):
            self.fail(f"a count above {MAX_COUNT}", unsupported=True)
        self.at = braces.end()
        low, high = int(numbers[0]), int(numbers[-1])
        if high < low:
            self.fail("the minimum exceeds the maximum")
        return low, None if braces[3] == "" else high

    def atom(self, left: bool, right: bool) -> Regex:
        if self.take("("):
            self.depth += 1
            if self.depth > MAX_NESTING:
                self.fail(f"groups nested deeper than {MAX_NESTING}", unsupported=True)
            if self.take("?"):
                self.group_kind()
            group = self.alternatives(left, right)
            if not self.take(")"):
                self.fail("')' expected")
            self.depth -= 1
            return group
        if self.take("["):
            return Chars(self.char_class())
        if self.take("."):
            return Chars(charset.complement(_LINE_ENDS))
        if self.take("\\"):
            return Chars(self.escape(in_class=False)[0])
        if self.peek() in "*+?{":
            self.fail("nothing to repeat")
        char = self.peek()
        if "\ud800" <= char <= "\udfff":
            self.fail("half a character", unsupported=True)
        self.at += 1
        return Chars(charset.of(char)) if char else NOTHING

    def group_kind(self) -> None:
        if self.take(":"):
            return
        if self.peek() in "=!" or self.peek(2) in ("<=", "<!"):
            self.fail("lookaround", unsupported=True)
        # Named group; (?P<name>...) is Python's form.
        end = self.text.find(">", self.at)
        if self.peek() not in ("<", "P") or end < 0 or self.peek(2) in ("P=", "P>"):
            self.fail(f"group '(?{self.peek()}'", unsupported=True)
        self.at = end + 1

    def escape(self, in_class: bool) -> _Reading:
        """The meaning of an escape after its backslash."""
        char = self.peek()
        if not char:
            self.fail("the pattern ends after '\\'")
        if char in "123456789k" and not in_class:
            self.fail("backreference", unsupported=True)
        if char in "bB" and not (in_class and char == "b"):
            self.fail("word boundary", unsupported=True)
        if char in "pP":
            self.fail("character property '\\p'", unsupported=True)
        self.at += 1
        if char in _CLASSES:
            return _CLASSES[char]
        if char in "xu":
            code = self.hexadecimal(char)
        elif char == "c":
            code = ord(self.peek() or "\0") % 32
            if not self.peek().isalpha() or not self.peek().isascii():
                self.fail("letter expected after '\\c'")
            self.at += 1
        elif char == "b":
            code = 8
        elif char in _CONTROLS:
            code = _CONTROLS[char]
        elif char in _SYNTAX or not (char.isalnum() and char.isascii()):
            code = ord(char)
        else:
            self.at -= 1
            self.fail(f"escape '\\{char}'", unsupported=True)
        only = ((code, code),)
        return only, only

    def hexadecimal(self, kind: str) -> int:
        digits = _CODE_POINT.match(self.text, self.at - 1)
        if digits is None:
            self.fail(f"hexadecimal digits expected after '\\{kind}'")
        self.at = digits.end()
        code = int(digits[1] or digits[2] or digits[3], 16)
        if 0xD800 <= code <= 0xDFFF or code > 0x10FFFF:
            self.fail("half a character", unsupported=True)
        return code

    def char_class(self) -> Charset:
        negated = self.take("^")
        sure: list[Charset] = []
        maybe: list[Charset] = []
        while not self.take("]"):
            surely, possibly = self.in_class()
            if self.peek() == "-" and self.peek(2) not in ("-", "-]"):
                self.at += 1
                low, high = surely, self.in_class()[0]
                if len(low) != 1 or low[0][0] != low[0][1] or len(high) != 1:
                    self.fail("range of classes", unsupported=True)
                if high[0][0] != high[0][1] or high[0][0] < low[0][0]:
                    self.fail("range in reverse order")
                surely = charset.intersection(charset.ANY, ((low[0][0], high[0][0]),))
                possibly = surely
            sure.append(surely)
            maybe.append(possibly)
        if negated:
            return charset.complement(charset.union(*maybe))
        if not charset.union(*sure):
            self.fail("a class that matches nothing")
        return charset.union(*sure)

    def in_class(self) -> _Reading:
        if self.take("\\"):
            return self.escape(in_class=True)
        char = self.peek()
        if not char:
            self.fail("']' expected")
        self.at += 1
        only = charset.of(char)
        return only, only


# The automata of patterns, in a cache that grammars and validation share.

MEMORY = 16 << 20  # bytes of cached automata
_STATE, _EDGE = 80, 200  # approximate bytes of each

_automata: BoundedCache[Automaton] = BoundedCache(MEMORY)


def automaton_of(pattern: str) -> Automaton:
    """The strings in which the pattern is found. Raises PatternError and TooManyStatesError."""
    key = digest(pattern.encode(errors="surrogatepass"))
    automaton = _automata.get(key)
    if automaton is None:
        automaton = compile_regex(read_pattern(pattern))
        edges = sum(map(len, automaton.transitions))
        _automata.put(key, automaton, _STATE * len(automaton.transitions) + _EDGE * edges)
    return automaton
