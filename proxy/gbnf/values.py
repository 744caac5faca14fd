"""The values of a GBNF grammar.

A Grammar maps rule names to alternatives: a tuple of sequences, which are tuples of elements. The
empty sequence is the empty text.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

ROOT = "root"  # the start rule of every server
MAX_CODE_POINT = 0x10FFFF


class GrammarError(ValueError):
    """A grammar that must not be sent to a server. `line` and `column` count from 1, in
    characters."""

    def __init__(self, line: int, column: int, what: str) -> None:
        super().__init__(f"grammar, line {line}, column {column}: {what}")
        self.line = line
        self.column = column
        self.what = what


class GrammarLimits(Struct, frozen=True):
    """What the GBNF parser and sampler of one generation of servers can. `max_repeat` is the
    highest number in `{m,n}`, and of rules that one chain of repetitions expands to; None: not
    supported. `merges_stacks`: equal parse stacks are dropped; if not, an ambiguous grammar
    doubles the work at every character."""

    name: str
    any_char: bool
    dash_escape: bool
    max_repeat: int | None
    merges_stacks: bool


# llama.cpp and PowerInfer `server` of November 2023 (common/grammar-parser.cpp).
OLD = GrammarLimits("old", any_char=False, dash_escape=False, max_repeat=None, merges_stacks=False)
# `llama-server` of 2026 (src/llama-grammar.cpp).
NEW = GrammarLimits("new", any_char=True, dash_escape=True, max_repeat=2000, merges_stacks=True)


class Literal(Struct, frozen=True):
    """A non-empty text; the empty text is the empty sequence."""

    text: str


class CharClass(Struct, frozen=True):
    """One character inside (or, if negated, outside) inclusive ranges of code points."""

    ranges: tuple[tuple[int, int], ...]
    negated: bool = False


ANY_CHAR = CharClass(((0, 0),), negated=True)
"""Any one character, written `.` or `[^\\x00]`: a text has no NUL."""


class RuleRef(Struct, frozen=True):
    name: str


class Repeat(Struct, frozen=True):
    """`element` at least `min` and at most `max` times; `max` None means no limit."""

    element: Element
    min: int
    max: int | None


class Group(Struct, frozen=True):
    alternatives: Alternatives


Element = Literal | CharClass | RuleRef | Repeat | Group
Sequence = tuple[Element, ...]
Alternatives = tuple[Sequence, ...]


class Grammar(Struct, frozen=True):
    """Rules by name, in the order of the text."""

    rules: Mapping[str, Alternatives]


class Scanner:
    """A position in a text that is parsed, and how deep it is nested."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = self.depth = 0

    def peek(self, length: int = 1) -> str:
        return self.text[self.at : self.at + length]

    def take(self, mark: str) -> bool:
        """Passes the mark if it is here."""
        if not self.text.startswith(mark, self.at):
            return False
        self.at += len(mark)
        return True
