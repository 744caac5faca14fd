"""Whether a grammar may be sent to a server: everything a server dies of, found before it.

Strategy: the servers hold a set of parse stacks and, at each character, replace the top of each
stack until a character class is on top. That replacement never ends when a rule can reach itself
without a character (left recursion, also through parts that may be empty; `(x?)*` is the same
thing, as a repetition is a rule that refers to itself), and takes as long as there are ways to do
it. So: which rules may be empty, which can end at all, what each can start with, and how many ways
there are from a rule to its first character.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .ambiguity import MAX_STACKS, too_ambiguous
from .effort import spend
from .gbnf import Places, parse
from .values import ROOT, Alternatives, Element, Grammar, Group, Limits, Repeat, RuleRef, Sequence

MAX_RULES = 20_000
"""Rules written out. The old server copies them for every request."""

MAX_WAYS = 5_000
"""Ways from one rule to its first character: the old sampler keeps a stack for each of them, and
the new one walks them all, without memory, when it looks for left recursion."""


def check(text: str, limits: Limits) -> Grammar:
    """The grammar in `text`, if a server of these limits can bear it.

    Raises GrammarError: bad syntax, no rule `root`, an undefined rule, left recursion, a repetition
    of what may be empty, a rule that can never end, too many parses of one text, or something
    too large.
    """
    grammar, places = parse(text, limits)
    if ROOT not in grammar.rules:
        raise places.error(len(text), f"there is no rule {ROOT!r}")
    if len(grammar.rules) > MAX_RULES:
        raise places.error(len(text), f"more than {MAX_RULES} rules")
    for name, offset in places.references.items():
        if name not in grammar.rules:
            raise places.error(offset, f"rule {name!r} is not defined")
    empty = _settle(grammar, _may_be_empty)
    for repeat, offset in places.repeats:
        if repeat.max is None and _may_be_empty(repeat.element, empty):
            raise places.error(offset, "endless repetition of what may be empty")
    _check_starts(grammar, empty, places)
    ending = settle_ends(grammar)
    for name in grammar.rules:
        if name not in ending:
            raise places.error(places.rules[name], f"rule {name!r} can never end")
    if not limits.merges_stacks and (example := too_ambiguous(grammar)) is not None:
        what = f"too ambiguous for this server: over {MAX_STACKS} parses after {example[-40:]!r}"
        raise places.error(places.rules[ROOT], what)
    return grammar


def _settle(grammar: Grammar, holds: Callable[[Element, set[str]], bool]) -> set[str]:
    """The least set of rules in which a rule is, when all of one of its alternatives `holds`."""
    found: set[str] = set()
    users: dict[str, list[str]] = {}
    for name, alternatives in grammar.rules.items():
        for target in references(alternatives):
            users.setdefault(target, []).append(name)
    todo = list(grammar.rules)
    while todo:
        name = todo.pop()
        if name not in found and _any_holds(grammar.rules[name], found, holds):
            found.add(name)
            todo += users.get(name, ())
    return found


def settle_ends(grammar: Grammar) -> set[str]:
    """The rules that can come to an end. References to undefined rules cannot."""
    return _settle(grammar, _may_end)


def references(alternatives: Alternatives) -> Iterator[str]:
    """The names of all rules referred to, as often as they are."""
    for sequence in alternatives:
        for element in sequence:
            while isinstance(element, Repeat):
                element = element.element
            if isinstance(element, RuleRef):
                yield element.name
            elif isinstance(element, Group):
                yield from references(element.alternatives)


def _any_holds(
    alternatives: Alternatives, found: set[str], holds: Callable[[Element, set[str]], bool]
) -> bool:
    for sequence in alternatives:
        for looked_at, element in enumerate(sequence):
            if not holds(element, found):
                spend(1 + (looked_at >> 2))
                break
        else:
            spend(1 + (len(sequence) >> 2))
            return True
    return False


def _may_be_empty(element: Element, empty: set[str]) -> bool:
    if isinstance(element, RuleRef):
        return element.name in empty
    if isinstance(element, Repeat):
        return element.min == 0 or _may_be_empty(element.element, empty)
    if isinstance(element, Group):
        return _any_holds(element.alternatives, empty, _may_be_empty)
    return False


def _may_end(element: Element, ending: set[str]) -> bool:
    if isinstance(element, RuleRef):
        return element.name in ending
    if isinstance(element, Repeat):
        return element.min == 0 or _may_end(element.element, ending)
    if isinstance(element, Group):
        return _any_holds(element.alternatives, ending, _may_end)
    return True


def _first_rules(alternatives: Alternatives, empty: set[str]) -> Iterator[str]:
    """The rules that may stand before the first character."""
    for sequence in alternatives:
        for element in sequence:
            inner = element
            while isinstance(inner, Repeat):
                inner = inner.element
            if isinstance(inner, RuleRef):
                yield inner.name
            elif isinstance(inner, Group):
                yield from _first_rules(inner.alternatives, empty)
            if not _may_be_empty(element, empty):
                break


def _check_starts(grammar: Grammar, empty: set[str], places: Places) -> None:
    """GrammarError for left recursion, and for too many ways to a first character."""
    ways: dict[str, tuple[int, int]] = {}
    for start in grammar.rules:
        # Depth first without recursion: a chain of rules may be as long as the grammar.
        path: dict[str, Iterator[str]] = {}
        if start not in ways:
            path[start] = iter(set(_first_rules(grammar.rules[start], empty)))
        while path:
            name, rest = next(reversed(path.items()))
            target = next(rest, None)
            if target is None:
                path.popitem()
                ways[name] = _ways_of_any(grammar.rules[name], ways)
                if sum(ways[name]) > MAX_WAYS:
                    raise places.error(
                        places.rules[name],
                        f"more than {MAX_WAYS} ways to the first character of rule {name!r}",
                    )
            elif target in path:
                names = list(path)
                circle = [*names[names.index(target) :], target]
                shown = circle if len(circle) <= 6 else [*circle[:3], "...", *circle[-2:]]
                raise places.error(places.rules[target], f"left recursion: {' -> '.join(shown)}")
            elif target not in ways:
                path[target] = iter(set(_first_rules(grammar.rules[target], empty)))


def _ways_of_any(alternatives: Alternatives, ways: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """How many ways there are to a first character, and how many to the empty text."""
    found = [_ways_of_sequence(sequence, ways) for sequence in alternatives]
    return sum(some for some, _ in found), sum(none for _, none in found)


def _ways_of_sequence(sequence: Sequence, ways: dict[str, tuple[int, int]]) -> tuple[int, int]:
    total, through = 0, 1
    for element in sequence:
        some, none = _ways_of(element, ways)
        total, through = min(total + through * some, MAX_WAYS + 1), min(through * none, MAX_WAYS)
        if not through:
            break
    return total, through


def _ways_of(element: Element, ways: dict[str, tuple[int, int]]) -> tuple[int, int]:
    if isinstance(element, RuleRef):
        return ways[element.name]
    if isinstance(element, Group):
        return _ways_of_any(element.alternatives, ways)
    if not isinstance(element, Repeat):
        return 1, 0
    some, none = _ways_of(element.element, ways)
    if not none:
        return some, int(element.min == 0)
    # A bounded repetition of what may be empty, as the readers write it: x x (x (x)?)?
    spend((element.max or element.min) >> 3)
    total, through = 0, 1
    for _ in range((element.max or element.min) - element.min):
        total, through = total * none + some, through * none + 1
        if total > MAX_WAYS:
            break
    for _ in range(element.min):
        total, through = total * none + some, through * none
        if total > MAX_WAYS:
            break
    return min(total, MAX_WAYS + 1), min(through, MAX_WAYS)
