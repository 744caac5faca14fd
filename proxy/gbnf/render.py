"""Renders a grammar as GBNF text that a given generation of servers can parse.

Features that an old server lacks are rewritten. `x{2,4}` becomes `x x x-r2` with `x-r1 ::= x | ""`
and `x-r2 ::= x x-r1 | ""`: a chain, so that every text has one derivation. (`x? x?` has two for one
x, which doubles the work of a sampler that keeps both.) An empty sequence is rendered as `""`,
since an empty alternative would swallow the end of the line.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Sequence as Listed
from functools import lru_cache
from typing import Any

from .automaton import Chars, Concat, Either, Regex
from .check import check_rules
from .gbnf import FORBIDDEN, MAX_NESTING, MAX_TEXT, Places, can_be_generated, weight_of
from .regex import read_whole
from .values import (
    NEW,
    ROOT,
    Alternatives,
    AnyChar,
    CharClass,
    Element,
    Grammar,
    GrammarError,
    GrammarLimits,
    Group,
    Literal,
    Repeat,
    RuleRef,
    Sequence,
)
from .work_budget import spend

_POSTFIX = {(0, None): "*", (1, None): "+", (0, 1): "?"}
_SPECIAL = re.compile(r"[^ !#-\[\]-~]")
_NAMED = {"\t": "\\t", "\r": "\\r", "\n": "\\n", "\\": "\\\\", '"': '\\"'}


def render(grammar: Grammar, limits: GrammarLimits) -> str:
    """The GBNF text of `grammar` with `root` first, within `limits`."""
    return Writer(grammar, limits).text()


class Writer:
    """Writes a grammar. What depends on an element's kind is a method, which another writer may
    extend."""

    def __init__(self, grammar: Grammar, limits: GrammarLimits) -> None:
        self.grammar = grammar
        self.limits = limits
        self.lines: list[str] = []
        self.taken = set(grammar.rules)
        # Rules generated for repetitions, by content, so that equal ones are shared.
        self.made: dict[object, str] = {}
        self.by_kind: dict[type, Callable[[Any], str]] = {
            Literal: self.literal,
            CharClass: self.char_class,
            AnyChar: self.any_char,
            RuleRef: self.reference,
            Group: self.group,
            Repeat: self.repeat,
        }

    def text(self) -> str:
        rules = self.grammar.rules
        for name in sorted(rules, key=lambda name: name != ROOT):
            self.rule(name, rules[name])
        return "".join(self.lines)

    def rule(self, name: str, alternatives: Alternatives) -> None:
        self.lines.append(f"{name} ::= {self.alternatives(alternatives)}\n")
        spend(3 + (len(self.lines[-1]) >> 2))

    def alternatives(self, alternatives: Alternatives) -> str:
        return " | ".join([self.sequence(sequence) for sequence in alternatives])

    def sequence(self, sequence: Sequence) -> str:
        by_kind = self.by_kind
        return " ".join([by_kind[type(element)](element) for element in sequence]) or '""'

    def element(self, element: Element) -> str:
        return self.by_kind[type(element)](element)

    def literal(self, literal: Literal) -> str:
        return f'"{_SPECIAL.sub(self.escaped, literal.text)}"'

    def escaped(self, special: re.Match[str]) -> str:
        return _written(special[0])

    def char_class(self, char_class: CharClass) -> str:
        return _class(char_class)

    def any_char(self, _: AnyChar) -> str:
        return "." if self.limits.any_char else "[^\\x00]"

    def reference(self, reference: RuleRef) -> str:
        return reference.name

    def group(self, group: Group) -> str:
        return f"({self.alternatives(group.alternatives)})"

    def repeat(self, repeat: Repeat) -> str:
        low, high = repeat.min, repeat.max
        if (low, high) in _POSTFIX:
            return self.element(repeat.element) + _POSTFIX[low, high]
        if self.limits.max_repeat is not None:
            bounds = f"{low}" if low == high else f"{low},{'' if high is None else high}"
            return f"{self.element(repeat.element)}{{{bounds}}}"
        one = self.short(repeat.element)
        parts = [one] * low
        if high is None:
            parts.append(one + "*")
        elif high > low:
            parts.append(self.at_most(one, high - low))
        # Parenthesised, since an operator may follow.
        return f"({' '.join(parts)})"

    def short(self, element: Element) -> str:
        """The element itself if it is short, else a reference to a new rule."""
        text = self.element(element)
        if isinstance(element, RuleRef | CharClass) or len(text) <= 16:
            return text
        return self.named(("part", text), "part", text)

    def at_most(self, one: str, times: int) -> str:
        rest = ""
        for count in range(1, times + 1):
            rest = self.named((one, count), "r", f'{one} {rest} | ""'.replace("  ", " "))
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


# Writes a grammar and checks it at the same time, without reading its text.
#
# Reading takes a quarter of the time to compile a schema, and yields the grammar that was written.
# What the reader finds on its way is counted here while the text is written: sizes, nesting,
# characters that no server can generate, and the rules that repetitions expand to.

MOST_WAYS = 200
"""Maximum ways from a rule to its first character. Alternatives of a schema often begin alike for
long, and each stays possible: with 280, a character took 20 ms. Of
MaskBench's 11 305 schemas, six have more."""


def checked_render(grammar: Grammar, limits: GrammarLimits) -> str:
    """The text of a grammar for servers that support repetitions. All its rules terminate, as
    `Rules.grammar` sees to.

    Raises GrammarError as `check` does, without a position."""
    writer = _CheckingWriter(grammar, limits)
    text = writer.text()
    if len(text) > MAX_TEXT:
        raise _error(f"longer than {MAX_TEXT} characters")
    places = Places("", repeats=[(one, 0) for one in writer.repeats])
    check_rules(grammar, limits, places, terminates=True, most_ways=MOST_WAYS)
    return text


def _error(what: str) -> GrammarError:
    return GrammarError(1, 1, what)


class _CheckingWriter(Writer):
    """Counts as the reader does, in the order of the text."""

    def __init__(self, grammar: Grammar, limits: GrammarLimits) -> None:
        super().__init__(grammar, limits)
        self.repeats: list[Repeat] = []
        self.depth = 0
        self.names: set[str] = set()
        self.unnamed = 0  # rules that groups and repetitions expand to
        self.weight = 1  # rules that the last group or repetition expands to
        self.known: set[str] = set()

    def rule(self, name: str, alternatives: Alternatives) -> None:
        self.names.add(name)
        super().rule(name, alternatives)

    def reference(self, reference: RuleRef) -> str:
        self.names.add(reference.name)
        return reference.name

    def group(self, group: Group) -> str:
        symbols = len(self.names) + self.unnamed
        self.unnamed += 1
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise _error(f"parentheses nested deeper than {MAX_NESTING}")
        text = super().group(group)
        self.depth -= 1
        self.weight = max(1, len(self.names) + self.unnamed - symbols)
        return text

    def repeat(self, repeat: Repeat) -> str:
        low, high = repeat.min, repeat.max
        self.weight = 1
        text = super().repeat(repeat)
        self.repeats.append(repeat)
        self.unnamed += 1 if high is None else high - low
        self.weight, fits = weight_of(self.weight, low, high, self.limits)
        if not fits:
            raise _error(f"repetitions that expand to more than {self.limits.max_repeat} rules")
        return text

    def escaped(self, special: re.Match[str]) -> str:
        if FORBIDDEN.match(special[0]):
            raise _error("a literal contains a character that can never be generated")
        return super().escaped(special)

    def char_class(self, char_class: CharClass) -> str:
        text = super().char_class(char_class)
        if text not in self.known:
            self.known.add(text)
            if not can_be_generated(char_class):
                raise _error("character class that matches no character")
        return text


# Grammars of answers that are plain text: one of several texts, or what a pattern matches.


def choice_grammar(choices: Listed[str]) -> str:
    """The GBNF text for an answer that is one of these texts, none of which is empty."""
    return _rendered(tuple((Literal(choice),) for choice in dict.fromkeys(choices)))


def pattern_grammar(pattern: str) -> str:
    """The GBNF text for an answer that matches the pattern as a whole. Raises PatternError."""
    element = _element(read_whole(pattern))
    return _rendered(element.alternatives if isinstance(element, Group) else ((element,),))


def _rendered(root: Alternatives) -> str:
    return render(Grammar({ROOT: root}), NEW)


def _element(regex: Regex) -> Element:
    if isinstance(regex, Chars):
        return CharClass(regex.charset)
    if isinstance(regex, Either):
        return Group(tuple((_element(part),) for part in regex.parts))
    if isinstance(regex, Concat):
        return Group((_joined(regex.parts),))
    return Repeat(_element(regex.part), regex.min, regex.max)


def _joined(parts: Listed[Regex]) -> tuple[Element, ...]:
    """The elements of parts in sequence; single characters side by side are one literal."""
    out: list[Element] = []
    for part in parts:
        char = _single(part)
        if char and out and isinstance(out[-1], Literal):
            out[-1] = Literal(out[-1].text + char)
        else:
            out.append(Literal(char) if char else _element(part))
    return tuple(out)


def _single(part: Regex) -> str:
    """The character that is all that this part matches; "" if there are others."""
    if isinstance(part, Chars) and len(part.charset) == 1:
        low, high = part.charset[0]
        return chr(low) if low == high else ""
    return ""
