"""Builds the rules of a grammar: names, shared parts, automata, and bounded repetition.

Equal content becomes one rule, and repeated content becomes a rule before it is repeated, because
all servers expand a repetition element by element.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache

from . import charset
from .automaton import EVERYTHING, Automaton, Chars, Concat, Either, Regex
from .charset import Charset
from .check import references, settled
from .gbnf import render
from .regex import read_whole
from .values import (
    NEW,
    ROOT,
    Alternatives,
    CharClass,
    Element,
    Grammar,
    Group,
    Literal,
    Repeat,
    RuleRef,
)
from .values import Sequence as Elements
from .work_budget import spend

BLOCK = 100  # repetitions: 10 000 characters become 100 blocks instead of 10 000 rules
MAX_REPEAT = 50_000  # of a bounded repetition, since the repetition of blocks is limited too

_CONTROLS = ((0, 0x1F),)
_QUOTED = charset.of('"\\')
# Characters that a JSON string must escape.
_NEVER_RAW = charset.union(_CONTROLS, _QUOTED)
_SHORT_ESCAPES = {0x22: '"', 0x5C: "\\", 8: "b", 9: "t", 10: "n", 12: "f", 13: "r"}


def _any_of(chars: str) -> CharClass:
    return CharClass(charset.of(chars))


_HEX = _any_of("0123456789ABCDEFabcdef")


class Rules:
    """Collects rules; `grammar` returns those reachable from the root."""

    def __init__(self) -> None:
        self._rules: dict[str, Alternatives] = {}
        self._by_content: dict[tuple[str, Alternatives], RuleRef] = {}
        self._numbers: dict[str, int] = {}
        self._automata: dict[tuple[str, Automaton], Elements] = {}
        # The rule for any JSON value, once built; shared by all documents.
        self.any_value: Elements | None = None

    def reserve(self, stem: str) -> RuleRef:
        """A new name, to be defined later."""
        number = self._numbers[stem] = self._numbers.get(stem, 0) + 1
        # A stem never ends in a digit, so names cannot collide.
        return RuleRef(stem if number == 1 else f"{stem}{number}")

    def define(self, rule: RuleRef, alternatives: Alternatives) -> None:
        spend(5 + 2 * sum(map(len, alternatives)))
        self._rules[rule.name] = tuple(joined(sequence) for sequence in alternatives)

    def add(self, stem: str, *alternatives: Elements) -> RuleRef:
        """A rule with these alternatives; reuses an equal one."""
        spend(sum(map(len, alternatives)))
        name = self._by_content.get((stem, alternatives))
        if name is None:
            name = self._by_content[stem, alternatives] = self.reserve(stem)
            self.define(name, alternatives)
        return name

    def grammar(self, root: Alternatives) -> Grammar:
        """The rules that `root` needs, without alternatives that can never terminate, such as
        recursion through required properties alone. If none remain, there is no rule root."""
        whole = Grammar({ROOT: root, **self._rules})
        ending = settled(whole.rules, by_characters=True)
        all_end = len(ending) == len(whole.rules)
        rules: dict[str, Alternatives] = {}
        todo = [ROOT]
        while todo:
            name = todo.pop()
            if name in ending and name not in rules:
                rule = whole.rules[name]
                rules[name] = rule if all_end else _without_endless(rule, ending)
                todo += references(rules[name])
        return Grammar(rules)

    # Shared parts

    @cached_property
    def space(self) -> RuleRef:
        """At most one space: small models loop on unbounded white space."""
        return self.add("ws", (Repeat(Literal(" "), 0, 1),))

    @cached_property
    def comma(self) -> RuleRef:
        return self.add("comma", (Literal(","), self.space))

    @cached_property
    def any_char(self) -> RuleRef:
        """One character of a JSON string in any of its JSON spellings; no lone surrogates."""
        d, rest = _any_of("Dd"), (_HEX, _HEX)
        pair = (d, _any_of("89ABab"), *rest, Literal("\\u"), d, _any_of("CDEFcdef"), *rest)
        code = self.add(
            "code",
            (_any_of("0123456789ABCEFabcef"), _HEX, *rest),
            (d, _any_of("01234567"), *rest),
            pair,
        )
        escaped = self.add(
            "escaped",
            (CharClass(tuple((ord(char), ord(char)) for char in '"\\/bfnrt')),),
            (Literal("u"), code),
        )
        return self.add(
            "char",
            (CharClass(((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C)), negated=True),),
            (Literal("\\"), escaped),
        )

    def any_string(self, low: int = 0, high: int | None = None) -> Elements:
        """A JSON string of `low` to `high` characters."""
        chars = self.between(self.any_char, low, high)
        return (self.add("string", (Literal('"'), *chars, Literal('"'))),)

    # Repetition

    def between(self, element: Element, low: int, high: int | None) -> Elements:
        """`element` repeated `low` to `high` times; each count has one derivation."""
        if low == high == 1:
            return (element,)
        if not isinstance(element, RuleRef | CharClass):
            element = self.add("part", (element,))
        if high is None:
            return (*self._times(element, low), Repeat(element, 0, None))
        if low and max(low, high - low) > BLOCK:
            return (*self._times(element, low), *self.between(element, 0, high - low))
        if high - low <= BLOCK:
            return () if high == 0 else (Repeat(element, low, high),)
        # Fewer than q blocks and any rest, or q blocks and the remainder.
        blocks, rest = divmod(high, BLOCK)
        block = self.add("block", (Repeat(element, BLOCK, BLOCK),))
        return (
            Group(
                (
                    (*self._up_to(block, blocks - 1), Repeat(element, 0, BLOCK - 1)),
                    (*self._times(block, blocks), *self._up_to(element, rest)),
                )
            ),
        )

    def _up_to(self, element: Element, times: int) -> Elements:
        return (Repeat(element, 0, times),) if times else ()

    def _times(self, element: Element, times: int) -> Elements:
        blocks, rest = divmod(times, BLOCK)
        elements: Elements = ()
        if blocks:
            block = self.add("block", (Repeat(element, BLOCK, BLOCK),))
            elements += (block if blocks == 1 else Repeat(block, blocks, blocks),)
        if rest:
            elements += (element if rest == 1 else Repeat(element, rest, rest),)
        return elements

    # Automata

    def string(self, automaton: Automaton) -> Elements:
        """The JSON strings whose content is in the language, each with one derivation."""
        if automaton == EVERYTHING:
            return self.any_string()
        inside = self._automaton("text", automaton, self._in_string, (Literal('"'),))
        return (Literal('"'), *inside)

    def plain(self, stem: str, automaton: Automaton) -> Elements:
        return self._automaton(stem, automaton, lambda chars: ((_char_class(chars),),), ())

    def _automaton(
        self,
        stem: str,
        automaton: Automaton,
        write: Callable[[Charset], Alternatives],
        tail: Elements,
    ) -> Elements:
        """A rule for each state that has several predecessors or several ways on. Equal states
        of all automata become the same rule: trees of names have many ends in common."""
        elements = self._automata.get((stem, automaton))
        if elements is not None:
            return elements
        rows = automaton.transitions
        spend(5 * (len(rows) + sum(map(len, rows))))
        uses = [0] * len(rows)
        names: dict[int, RuleRef] = {}
        for state, row in enumerate(rows):
            for _, target in row:
                uses[target] += 1
                if target < state and target not in names:  # used before it is written
                    names[target] = self.reserve(stem)

        def has_rule(state: int) -> bool:
            several = uses[state] > 1 or len(rows[state]) > 1 or state in automaton.accepting
            return bool(rows[state]) and (state == 0 or several)

        def go(chars: Charset, state: int) -> Elements:
            entry: list[Element] = [*_one_of(write(chars))]
            # A state with a single successor is inlined.
            while not has_rule(state):
                if not rows[state]:
                    return (*entry, *tail)
                chars, state = rows[state][0]
                entry += _one_of(write(chars))
            return (*entry, names[state])

        for state in filter(has_rule, range(len(rows) - 1, -1, -1)):
            stay = [chars for chars, target in rows[state] if target == state]
            leave = [go(chars, target) for chars, target in rows[state] if target != state]
            if state in automaton.accepting:
                leave.append(tail)
            whole = tuple(leave)
            if stay:  # a repetition does not name its rule, so it can be shared
                again = Repeat(_one_element(write(stay[0])), 0, None)
                whole = ((again, *_one_of(whole)),)
            if state in names:
                self.define(names[state], whole)
            else:
                names[state] = self.add(stem, *whole)
        entry = self._automata[stem, automaton] = (names[0],) if has_rule(0) else tail
        return entry

    def _in_string(self, chars: Charset) -> Alternatives:
        """One character of a set as it is written in a JSON string."""
        if chars == charset.ANY:
            return ((self.any_char,),)
        alternatives = _spelled(chars)
        return ((self.add("one", *alternatives),),) if len(alternatives) > 1 else alternatives


@lru_cache(maxsize=5000)
def _spelled(chars: Charset) -> Alternatives:
    """One character of a set, raw or escaped."""
    alternatives: list[Elements] = []
    if raw := charset.intersection(chars, charset.UNESCAPED):
        alternatives.append((_char_class(raw),))
    escapes: list[Elements] = []
    special = [
        code
        for low, high in charset.intersection(chars, _NEVER_RAW)
        for code in range(low, high + 1)
    ]
    if short := [_SHORT_ESCAPES[code] for code in special if code in _SHORT_ESCAPES]:
        escapes.append((_char_class(charset.of("".join(short))),))
    for lead in range(2):
        digits = "".join(
            f"{code % 16:x}{code % 16:X}"
            for code in special
            if code // 16 == lead and code not in _SHORT_ESCAPES
        )
        if digits:
            escapes.append((Literal(f"u00{lead:x}"), _char_class(charset.of(digits))))
    if escapes:
        alternatives.append((Literal("\\"), *_one_of(tuple(escapes))))
    return tuple(alternatives)


_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def literal(value: object) -> Literal:
    return Literal(_json(value))


def member_key(name: str) -> Literal:
    return Literal(_json(name) + ":")


def _char_class(chars: Charset) -> Element:
    if len(chars) == 1 and chars[0][0] == chars[0][1]:
        return Literal(chr(chars[0][0]))
    return CharClass(chars)


def _one_of(alternatives: Alternatives) -> Elements:
    return alternatives[0] if len(alternatives) == 1 else (Group(alternatives),)


def _one_element(alternatives: Alternatives) -> Element:
    if len(alternatives) == len(alternatives[0]) == 1:
        return alternatives[0][0]
    return Group(alternatives)


def as_elements(regex: Regex) -> Elements:
    """An expression as it stands, without an automaton."""
    if isinstance(regex, Chars):
        return (_char_class(regex.charset),)
    if isinstance(regex, Concat):
        return joined([element for part in regex.parts for element in as_elements(part)])
    if isinstance(regex, Either):
        return _one_of(tuple(map(as_elements, regex.parts)))
    return (Repeat(_one_element((as_elements(regex.part),)), regex.min, regex.max),)


def joined(sequence: Sequence[Element]) -> Elements:
    elements: list[Element] = []
    for element in sequence:
        if isinstance(element, Literal) and elements and isinstance(elements[-1], Literal):
            elements[-1] = Literal(elements[-1].text + element.text)
        else:
            elements.append(element)
    return tuple(elements)


def _without_endless(alternatives: Alternatives, ending: set[str]) -> Alternatives:
    result: list[Elements] = []
    for sequence in alternatives:
        elements: list[Element] = []
        for element in sequence:
            shorter = _ending(element, ending)
            if shorter is None:
                break
            elements += shorter
        else:
            result.append(tuple(elements))
    return tuple(result)


def _ending(element: Element, ending: set[str]) -> Elements | None:
    """The element without parts that never terminate; None if nothing is left."""
    if isinstance(element, RuleRef):
        return (element,) if element.name in ending else None
    if isinstance(element, Group):
        inside = _without_endless(element.alternatives, ending)
        return (Group(inside),) if inside else None
    if isinstance(element, Repeat):
        inner = _ending(element.element, ending)
        if inner is None:
            return () if element.min == 0 else None
        return (Repeat(inner[0], element.min, element.max),)
    return (element,)


# Grammars of answers that are plain text: one of several texts, or what a pattern matches.


def choice_grammar(choices: Sequence[str]) -> str:
    """The GBNF text for an answer that is one of these texts, none of which is empty."""
    return _rendered(tuple((Literal(choice),) for choice in dict.fromkeys(choices)))


def pattern_grammar(pattern: str) -> str:
    """The GBNF text for an answer that matches the pattern as a whole. Raises PatternError."""
    regex = read_whole(pattern)
    parts = regex.parts if isinstance(regex, Either) else (regex,)
    return _rendered(tuple(joined(as_elements(part)) for part in parts))


def _rendered(root: Alternatives) -> str:
    return render(Grammar({ROOT: root}), NEW)
