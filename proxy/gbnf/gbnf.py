"""Parses GBNF text exactly like the servers' recursive-descent parsers, and renders it.

Details that are easily missed:

- A newline ends a rule, except inside parentheses, after `|` and after `::=`. An empty last
  alternative swallows the newline: the error is the `::=` of the next rule.
- The servers read a C string: a NUL would silently end the grammar.
- A postfix operator applies to the element before it; a whole literal is one element, and an
  operator after an operator applies to the repetition.
- The newer parser counts the rules that a repetition expands to, multiplied by groups inside, and
  fails above a limit; an upper bound above it silently becomes "no bound". Both are errors here.

On purpose, this parser also rejects rules defined twice (servers keep the last), character classes
that are reversed or empty (they match nothing, and an old server at a dead end may abort), and
`<token>` elements (they depend on the model's vocabulary).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NoReturn

from msgspec import Struct, field

from .values import (
    ANY_CHAR,
    MAX_CODE_POINT,
    ROOT,
    Alternatives,
    CharClass,
    Element,
    Grammar,
    GrammarError,
    GrammarLimits,
    Group,
    Literal,
    Repeat,
    RuleRef,
    Scanner,
    Sequence,
)
from .work_budget import spend

MAX_TEXT = 512 * 1024  # characters; real grammars have a few hundred
# Of parentheses: the servers' parsers recurse on the C stack, ours on Python's.
MAX_NESTING = 64

_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")
_POSTFIX = frozenset("*+?{")
_GAP = frozenset(" \t\r\n#")
_NAME = re.compile("[a-zA-Z0-9-]*")
_BLANK = re.compile(r"(?:[ \t]+|#[^\r\n]*)*")
_BLANK_LINES = re.compile(r"(?:[ \t\r\n]+|#[^\r\n]*)*")
_DIGITS = re.compile("[0-9]+")
_PLAIN = re.compile(r'[^"\\]*')
FORBIDDEN = re.compile("[\0\ud800-\udfff]")
_CODE_POINT = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})")
_HEX_LENGTH = {"x": 2, "u": 4, "U": 8}
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]"}


class Places(Struct):
    """Offsets in the text, for errors found later."""

    text: str
    rules: dict[str, int] = field(default_factory=dict)
    references: dict[str, int] = field(default_factory=dict)

    def error(self, offset: int, what: str) -> GrammarError:
        before = self.text[:offset]
        line = before.count("\n") + 1
        return GrammarError(line, offset - (before.rfind("\n") + 1) + 1, what)


def parse(text: str, limits: GrammarLimits) -> tuple[Grammar, Places]:
    """Parses a grammar and checks its syntax only. Raises GrammarError."""
    spend(min(len(text), MAX_TEXT))
    places = Places(text)
    return _Reader(text, limits, places).grammar(), places


class _Reader(Scanner):
    def __init__(self, text: str, limits: GrammarLimits, places: Places) -> None:
        super().__init__(text)
        self.limits = limits
        self.places = places

    def fail(self, what: str, offset: int | None = None) -> NoReturn:
        raise self.places.error(self.at if offset is None else offset, what)

    def grammar(self) -> Grammar:
        if len(self.text) > MAX_TEXT:
            self.fail(f"longer than {MAX_TEXT} characters", 0)
        if (bad := FORBIDDEN.search(self.text)) is not None:
            self.fail(f"character U+{ord(bad[0]):04X} is not allowed", bad.start())
        rules: dict[str, Alternatives] = {}
        self.space(newlines=True)
        while self.peek():
            self.rule(rules)
        return Grammar(rules)

    def space(self, newlines: bool) -> None:
        blank = (_BLANK_LINES if newlines else _BLANK).match(self.text, self.at)
        assert blank is not None, "it matches the empty text"
        self.at = blank.end()

    def name(self) -> str:
        match = _NAME.match(self.text, self.at)
        if not match or not match[0]:
            self.fail(f"expected a rule name, found {self.found()}")
        self.at = match.end()
        return match[0]

    def found(self) -> str:
        return repr(self.peek()) if self.peek() else "the end"

    def rule(self, rules: dict[str, Alternatives]) -> None:
        start = self.at
        name = self.name()
        if name in rules:
            self.fail(f"rule {name!r} is defined twice", start)
        self.places.rules[name] = start
        self.space(newlines=False)
        if not self.take("::="):
            self.fail(f"expected '::=' after {name!r}, found {self.found()}")
        self.space(newlines=True)
        rules[name] = self.alternatives(nested=False)
        if self.peek() and self.peek() not in "\r\n":
            self.fail(f"expected an element or the end of the line, found {self.found()}")
        self.space(newlines=True)

    def alternatives(self, nested: bool) -> Alternatives:
        sequences = [self.sequence(nested)]
        while self.take("|"):
            self.space(newlines=True)
            sequences.append(self.sequence(nested))
        return tuple(sequences)

    def sequence(self, nested: bool) -> Sequence:
        text = self.text
        done: list[Element] = []
        last: Element | None = None
        while char := text[self.at : self.at + 1]:
            start = self.at
            if char in _POSTFIX:
                self.at += 1
                low, high = self.bounds(char, nested)
                if last is None:
                    self.fail(f"nothing to repeat before {char!r}", start)
                if high is not None and high < low:
                    self.fail("the minimum exceeds the maximum", start)
                last = None if high == 0 else Repeat(last, low, high)
            else:
                if last is not None:
                    done.append(last)
                if char in _WORD:
                    name = self.name()
                    self.places.references.setdefault(name, start)
                    last = RuleRef(name)
                elif char == '"':
                    last = self.literal()
                elif char == "[":
                    last = self.char_class()
                elif char == "(":
                    last = self.group()
                elif self.limits.any_char and self.take("."):
                    last = ANY_CHAR
                elif char in "<!":
                    self.fail("token elements are not supported")
                else:
                    last = None
                    break
            if text[self.at : self.at + 1] in _GAP:
                self.space(nested)
        if last is not None:
            done.append(last)
        return tuple(done)

    def group(self) -> Group:
        start = self.at
        self.depth += 1
        if self.depth > MAX_NESTING:
            self.fail(f"parentheses nested deeper than {MAX_NESTING}")
        self.at += 1
        self.space(newlines=True)
        inside = self.alternatives(nested=True)
        if not self.take(")"):
            opened = self.places.error(start, "")
            where = f"line {opened.line}, column {opened.column}"
            self.fail(f"expected ')' to close the '(' at {where}, found {self.found()}")
        self.depth -= 1
        return Group(inside)

    def literal(self) -> Literal | None:
        start = self.at
        self.at += 1
        chars: list[str] = []
        while True:
            if (plain := _PLAIN.match(self.text, self.at)) and plain[0]:
                chars.append(plain[0])
                self.at = plain.end()
            if self.take('"'):
                break
            offset = self.at
            code = self.char("string", start)
            if code == 0 or 0xD800 <= code <= 0xDFFF:
                self.fail(f"U+{code:04X} can never be generated", offset)
            chars.append(chr(code))
        return Literal("".join(chars)) if chars else None

    def char_class(self) -> CharClass:
        start = self.at
        self.at += 1
        negated = self.take("^")
        ranges: list[tuple[int, int]] = []
        while not self.take("]"):
            offset = self.at
            low = high = self.char("character class", start)
            if self.peek() == "-" and self.peek(2) != "-]":
                self.at += 1
                high = self.char("character class", start)
            if high < low:
                self.fail("range in reverse order", offset)
            ranges.append((low, high))
        chars = CharClass(tuple(ranges), negated)
        if not ranges:
            self.fail("empty character class", start)
        if not can_be_generated(chars):
            self.fail("character class that matches no character", start)
        return chars

    def char(self, where: str, start: int) -> int:
        char = self.peek()
        if not char:
            self.fail(f"unterminated {where}", start)
        if char != "\\":
            self.at += 1
            return ord(char)
        kind = self.peek(2)[1:]
        if kind in "xuU" and (digits := _CODE_POINT.match(self.text, self.at)):
            code = int(digits[0][2:], 16)
            if code > MAX_CODE_POINT:
                self.fail(f"'{digits[0]}' is not a character")
            self.at = digits.end()
            return code
        if kind and kind in "xuU":
            self.fail(f"'\\{kind}' requires {_HEX_LENGTH[kind]} hexadecimal digits")
        if kind in _ESCAPES or (kind == "-" and self.limits.dash_escape):
            self.at += 2
            return ord(_ESCAPES.get(kind, kind))
        self.fail(f"unknown escape '\\{kind}'")

    def bounds(self, char: str, nested: bool) -> tuple[int, int | None]:
        if char != "{":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[char]
        if self.limits.max_repeat is None:
            self.fail("this server does not support '{m,n}' repetition", self.at - 1)
        self.space(nested)
        low = self.number()
        self.space(nested)
        high: int | None = low
        if self.take(","):
            self.space(nested)
            high = self.number() if self.peek().isdigit() else None
            self.space(nested)
        if not self.take("}"):
            self.fail(f"expected '}}', found {self.found()}")
        return low, high

    def number(self) -> int:
        start, digits = self.at, _DIGITS.match(self.text, self.at)
        if digits is None:
            self.fail(f"expected a number, found {self.found()}")
        self.at = digits.end()
        if len(digits[0]) > 9:
            self.fail("number too large", start)
        return int(digits[0])


# For each first byte of a multi-byte UTF-8 character, the code points it may begin: servers match
# partial characters by this range.
_LEADS = (
    [(lead << 6 & 0x7FF, lead << 6 & 0x7FF | 0x3F) for lead in range(0xC2, 0xE0)]
    + [(max((lead & 0xF) << 12, 0x800), (lead & 0xF) << 12 | 0xFFF) for lead in range(0xE0, 0xF0)]
    + [(max((lead & 7) << 18, 0x10000), (lead & 7) << 18 | 0x3FFFF) for lead in range(0xF0, 0xF5)]
)


def can_be_generated(element: CharClass) -> bool:
    """Whether a server can generate a character of this class.

    A server that rejects every token samples one anyway; the old one may then abort. A negated
    class rejects a first byte if it excludes any character that begins with it, so it must leave an
    ASCII character or all characters of a first byte."""
    if element.negated:
        free = [(code, code) for code in range(1, 0x80)] + _LEADS
        return any(
            all(high < start or end < low for low, high in element.ranges) for start, end in free
        )
    alive = [(1, 0xD7FF), (0xE000, MAX_CODE_POINT)]
    return any(low <= end and start <= high for low, high in element.ranges for start, end in alive)


# Renders a grammar for a given generation of servers.
#
# For an old server, `x{2,4}` becomes `x x x-r2` with `x-r1 ::= x | ""` and `x-r2 ::= x x-r1 | ""`,
# so that every text has one derivation. An empty sequence is rendered as `""`, since an empty
# alternative would swallow the end of the line.

_OPERATORS = {(0, None): "*", (1, None): "+", (0, 1): "?"}
_SPECIAL = re.compile(r"[^ !#-\[\]-~]")
_NAMED = {"\t": "\\t", "\r": "\\r", "\n": "\\n", "\\": "\\\\", '"': '\\"'}


def render(grammar: Grammar, limits: GrammarLimits) -> str:
    """The GBNF text of `grammar` with `root` first, within `limits`."""
    return _Writer(grammar, limits).text()


class _Writer:
    def __init__(self, grammar: Grammar, limits: GrammarLimits) -> None:
        self.grammar = grammar
        self.limits = limits
        self.lines: list[str] = []
        self.taken = set(grammar.rules)
        # Rules generated for repetitions, by content, so that equal ones are shared.
        self.made: dict[object, str] = {}

    def text(self) -> str:
        rules = self.grammar.rules
        for name in sorted(rules, key=lambda name: name != ROOT):
            self.lines.append(f"{name} ::= {self.alternatives(rules[name])}\n")
            spend(3 + (len(self.lines[-1]) >> 2))
        return "".join(self.lines)

    def alternatives(self, alternatives: Alternatives) -> str:
        return " | ".join(
            [" ".join(map(self.element, sequence)) or '""' for sequence in alternatives]
        )

    def element(self, element: Element) -> str:
        if isinstance(element, RuleRef):
            return element.name
        if isinstance(element, Literal):
            return f'"{_SPECIAL.sub(lambda special: _written(special[0]), element.text)}"'
        if isinstance(element, CharClass):
            return _class(element)
        if isinstance(element, Repeat):
            return self.repeat(element)
        return f"({self.alternatives(element.alternatives)})"

    def repeat(self, repeat: Repeat) -> str:
        low, high = repeat.min, repeat.max
        if (low, high) in _OPERATORS:
            return self.element(repeat.element) + _OPERATORS[low, high]
        if self.limits.max_repeat is not None:
            bounds = f"{low}" if low == high else f"{low},{'' if high is None else high}"
            return f"{self.element(repeat.element)}{{{bounds}}}"
        text = self.short(repeat.element)
        parts = [text] * low
        if high is None:
            parts.append(text + "*")
        elif high > low:
            parts.append(self.at_most(text, high - low))
        # Parenthesised, since an operator may follow.
        return f"({' '.join(parts)})"

    def short(self, element: Element) -> str:
        """The element itself if it is short, else a reference to a new rule."""
        text = self.element(element)
        if isinstance(element, RuleRef | CharClass) or len(text) <= 16:
            return text
        return self.named(("part", text), "part", text)

    def at_most(self, text: str, times: int) -> str:
        rest = ""
        for count in range(1, times + 1):
            rest = self.named((text, count), "r", f'{text} {rest} | ""'.replace("  ", " "))
        return rest

    def named(self, key: object, stem: str, body: str) -> str:
        spend(1)
        if key not in self.made:
            spend(3 + (len(body) >> 2))
            number = len(self.made) + 1
            while f"{stem}{number}" in self.taken:
                number += 1
            name = f"{stem}{number}"
            self.taken.add(name)
            self.made[key] = name
            self.lines.append(f"{name} ::= {body}\n")
        return self.made[key]


@lru_cache(maxsize=2000)
def _class(element: CharClass) -> str:
    ranges = "".join(
        _in_class(low) if low == high else f"{_in_class(low)}-{_in_class(high)}"
        for low, high in element.ranges
    )
    return f"[{'^' if element.negated else ''}{ranges}]"


def _in_class(code: int) -> str:
    # Brackets, caret and dash as numbers: their escapes differ between the servers.
    return f"\\x{code:02X}" if chr(code) in "[]^-" else _written(chr(code))


def _written(char: str) -> str:
    code = ord(char)
    if char in _NAMED:
        return _NAMED[char]
    if char.isprintable():
        return char
    if code < 0x100:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
