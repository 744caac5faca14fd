"""The check of a grammar that this package has just written, without reading its text again.

Reading takes a quarter of the time to compile a schema, and yields the grammar that was written.
What the reader finds on its way is counted here on the grammar itself: sizes, nesting, characters
that no server can generate, and the rules that repetitions expand to.
"""

from __future__ import annotations

from .check import check_rules
from .effort import spend
from .gbnf import FORBIDDEN, MAX_NESTING, MAX_TEXT, Places, can_be_generated, weight_of
from .values import (
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
)

MOST_WAYS = 200
"""Maximum ways from a rule to its first character. Alternatives of a schema often begin alike for
long, and each stays possible: with 280, a character took 20 ms. Of
MaskBench's 11 305 schemas, six have more."""


def check_written(grammar: Grammar, text: str, limits: GrammarLimits) -> None:
    """Checks a grammar for servers that support repetitions. `text` is what `render` made of it,
    and all its rules terminate, as `Rules.grammar` sees to.

    Raises GrammarError as `check` does, without a position."""
    if len(text) > MAX_TEXT:
        raise _error(f"longer than {MAX_TEXT} characters")
    spend(len(text) >> 3)
    counter = _Counter(limits)
    for name, alternatives in grammar.rules.items():
        counter.names.add(name)
        counter.alternatives(alternatives, 0)
    places = Places("", repeats=[(one, 0) for one in counter.repeats])
    check_rules(grammar, limits, places, terminates=True, most_ways=MOST_WAYS)


def _error(what: str) -> GrammarError:
    return GrammarError(1, 1, what)


class _Counter:
    """Counts as the reader does, in the order of the text."""

    def __init__(self, limits: GrammarLimits) -> None:
        self.limits = limits
        self.names: set[str] = set()
        self.made = 0
        self.repeats: list[Repeat] = []
        self.known: set[Element] = set()

    def alternatives(self, alternatives: Alternatives, depth: int) -> None:
        if depth > MAX_NESTING:
            raise _error(f"parentheses nested deeper than {MAX_NESTING}")
        for sequence in alternatives:
            spend(1 + (len(sequence) >> 2))
            for element in sequence:
                self.element(element, depth)

    def element(self, element: Element, depth: int) -> int:
        """The rules that the element expands to."""
        if isinstance(element, RuleRef):
            self.names.add(element.name)
        elif isinstance(element, Repeat):
            weight = self.element(element.element, depth)
            self.repeats.append(element)
            low, high = element.min, element.max
            self.made += 1 if high is None else high - low
            weight, fits = weight_of(weight, low, high, self.limits)
            if not fits:
                raise _error(f"repetitions that expand to more than {self.limits.max_repeat} rules")
            return weight
        elif isinstance(element, Group):
            symbols = len(self.names) + self.made
            self.made += 1
            self.alternatives(element.alternatives, depth + 1)
            return max(1, len(self.names) + self.made - symbols)
        elif element not in self.known:
            self.known.add(element)
            if isinstance(element, Literal) and FORBIDDEN.search(element.text):
                raise _error("a literal contains a character that can never be generated")
            if isinstance(element, CharClass) and not can_be_generated(element):
                raise _error("character class that matches no character")
        return 1
