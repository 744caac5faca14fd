"""Renders a grammar as GBNF text that a given generation of servers can parse.

For an old server, `x{2,4}` becomes `x x x-r2` with `x-r1 ::= x | ""` and `x-r2 ::= x x-r1 | ""`, so
that every text has one derivation. An empty sequence is rendered as `""`, since an empty
alternative would swallow the end of the line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence as Listed
from functools import lru_cache

from .automaton import Either
from .check import check_rules
from .gbnf import MAX_TEXT, Places
from .regex import read_whole
from .rules import as_elements, joined
from .values import (
    NEW,
    ROOT,
    Alternatives,
    CharClass,
    Element,
    Grammar,
    GrammarLimits,
    Group,
    Literal,
    Repeat,
    RuleRef,
)
from .work_budget import spend

_POSTFIX = {(0, None): "*", (1, None): "+", (0, 1): "?"}
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
        if isinstance(element, Group):
            return f"({self.alternatives(element.alternatives)})"
        return "." if self.limits.any_char else "[^\\x00]"

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


MOST_WAYS = 200
"""Maximum ways from a rule to its first character. Alternatives of a schema often begin alike for
long, and each stays possible: with 280, a character took 20 ms. Of
MaskBench's 11 305 schemas, six have more."""


def checked_render(grammar: Grammar, limits: GrammarLimits) -> str:
    """The text of a grammar for servers that support repetitions, whose rules all terminate. Raises
    GrammarError as `check` does, without a position: reading the text would take a quarter of the
    time to compile a schema."""
    text = render(grammar, limits)
    places = Places("")
    if len(text) > MAX_TEXT:
        raise places.error(0, f"longer than {MAX_TEXT} characters")
    check_rules(grammar, limits, places, terminates=True, most_ways=MOST_WAYS)
    return text


# Grammars of answers that are plain text: one of several texts, or what a pattern matches.


def choice_grammar(choices: Listed[str]) -> str:
    """The GBNF text for an answer that is one of these texts, none of which is empty."""
    return _rendered(tuple((Literal(choice),) for choice in dict.fromkeys(choices)))


def pattern_grammar(pattern: str) -> str:
    """The GBNF text for an answer that matches the pattern as a whole. Raises PatternError."""
    regex = read_whole(pattern)
    parts = regex.parts if isinstance(regex, Either) else (regex,)
    return _rendered(tuple(joined(as_elements(part)) for part in parts))


def _rendered(root: Alternatives) -> str:
    return render(Grammar({ROOT: root}), NEW)
