"""Writes a grammar and checks it at the same time, without reading its text.

Reading takes a quarter of the time to compile a schema, and yields the grammar that was written.
What the reader finds on its way is counted here while the text is written: sizes, nesting,
characters that no server can generate, and the rules that repetitions expand to.
"""

from __future__ import annotations

import re

from .check import check_rules
from .gbnf import FORBIDDEN, MAX_NESTING, MAX_TEXT, Places, can_be_generated, weight_of
from .render import Writer
from .values import (
    Alternatives,
    CharClass,
    Grammar,
    GrammarError,
    GrammarLimits,
    Group,
    Repeat,
    RuleRef,
)

MOST_WAYS = 200
"""Maximum ways from a rule to its first character. Alternatives of a schema often begin alike for
long, and each stays possible: with 280, a character took 20 ms. Of
MaskBench's 11 305 schemas, six have more."""


def written(grammar: Grammar, limits: GrammarLimits) -> str:
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
