"""Regular expressions and the deterministic automata compiled from them.

What a JSON schema says about a string or number is a regular language: constraints are combined by
intersection, alternatives by union, and only the result becomes grammar rules. So every text has
one derivation, and a server never meets a dead end, since every state can reach an end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial, reduce
from typing import TypeVar

from msgspec import Struct

from . import charset
from .charset import Charset
from .work_budget import spend

S = TypeVar("S")
T = TypeVar("T")

# States of an automaton, each of which becomes a grammar rule. Expressions such as `a.{30}` double
# them with every character.
MAX_STATES = 4_000
MAX_COPIES = 1_000  # states of an automaton that counts characters, where maxLength can be lowered
# Characters above minLength, where maxLength must be lowered: beyond the first, MAX_COPIES counts;
# with fewer than the second, there are too many states.
AMPLE, ROOM = 128, 16
MAX_LISTED = 50_000  # states of an automaton for a list of texts, which is cheaper to build


class TooManyStatesError(Exception):
    """The automaton would have more than MAX_STATES states."""


class Chars(Struct, frozen=True):
    charset: Charset


class Concat(Struct, frozen=True):
    """The parts in sequence; without parts, the empty text."""

    parts: tuple[Regex, ...]


class Either(Struct, frozen=True):
    """Any of the parts; without parts, no text at all."""

    parts: tuple[Regex, ...]


class Times(Struct, frozen=True):
    """`part` at least `min` and at most `max` times; `max` None means no limit."""

    part: Regex
    min: int
    max: int | None


Regex = Chars | Concat | Either | Times

NOTHING = Concat(())
ANY_TEXT = Times(Chars(charset.ANY), 0, None)


class Automaton(Struct, frozen=True):
    """A deterministic automaton. State 0 is the start; the character sets of a state are
    disjoint."""

    transitions: tuple[tuple[tuple[Charset, int], ...], ...]
    accepting: frozenset[int]

    @property
    def is_empty(self) -> bool:
        return not self.accepting

    def accepts(self, value: str) -> bool:
        state = 0
        spend(2 * len(value))
        for char in value:
            code = ord(char)
            for chars, target in self.transitions[state]:
                if charset.contains(chars, code):
                    state = target
                    break
            else:
                return False
        return state in self.accepting


def compile_regex(regex: Regex) -> Automaton:
    """Compiles an expression. Raises TooManyStatesError."""
    nfa = _Nfa()
    first, last = nfa.add(regex)

    def close(targets: Iterable[int]) -> frozenset[int]:
        seen = _reached(targets, nfa.silent)
        spend(len(seen))
        # Dropping states without edges leaves fewer distinct sets.
        return frozenset(s for s in seen if nfa.edges[s] or s == last)

    def following(state: frozenset[int]) -> Iterable[tuple[Charset, frozenset[int]]]:
        edges = [edge for s in state for edge in nfa.edges[s]]
        return [(chars, close(targets)) for chars, targets in _split(edges)]

    return _explore(close([first]), following, lambda state: last in state)


def texts(values: Iterable[str]) -> Automaton:
    """Exactly these texts: a tree of characters, in which equal branches are merged from the ends.
    Raises TooManyStatesError."""
    tree: list[dict[str, int]] = [{}]
    ends: set[int] = set()
    for value in values:
        spend(1 + len(value))
        at = 0
        for char in value:
            following = tree[at].get(char)
            if following is None:
                following = tree[at][char] = len(tree)
                tree.append({})
            at = following
        ends.add(at)
    if not ends:
        return EMPTY
    spend(len(tree))
    tidied = _tidy([{to: charset.of(char) for char, to in row.items()} for row in tree], ends)
    if len(tidied.transitions) > MAX_LISTED:
        raise TooManyStatesError
    return tidied


@lru_cache(maxsize=2000)
def _others(taken: tuple[Charset, ...]) -> Charset:
    return charset.difference(charset.UNESCAPED, charset.union(*taken))


@lru_cache(maxsize=500)
def all_but(values: tuple[str, ...], size: int) -> Automaton:
    """The texts that differ from all of these: their tree, with a way out at every character
    that JSON strings need not escape. A tree of more than `size` characters is cut: all texts
    with the same first characters as a value are left out then."""
    spend(sum(map(len, values)))
    depth = max(map(len, values), default=1) - 1
    while depth and len({v[:at] for v in values for at in range(1, 1 + min(depth, len(v)))}) > size:
        depth = depth * 2 // 3
    tree = texts(value[: depth + 1] for value in values)
    if tree.is_empty:
        return EVERYTHING
    count = len(tree.transitions)
    spend(4 * count)
    is_cut = any(len(value) > depth + 1 for value in values)
    rows = []
    for row in tree.transitions:
        alive = [edge for edge in row if not is_cut or tree.transitions[edge[1]]]
        others = _others(tuple(chars for chars, _ in row))
        rows.append(tuple(sorted((*alive, (others, count)))))
    rows.append(((charset.ANY, count),))
    return Automaton(tuple(rows), frozenset(range(count + 1)) - tree.accepting)


def with_length(whole: Automaton, low: int, high: int | None) -> Automaton:
    """The texts of `low` to `high` characters: a copy of the states for each length. If that
    needs too many states, `high` is lowered. Raises TooManyStatesError if too few are left."""
    states = len(whole.transitions)
    if not low and high is None:
        return whole
    if states * (low + 1) > MAX_STATES:
        raise TooManyStatesError
    if high is not None and states * (high + 1) > MAX_COPIES:
        enough = max(MAX_COPIES // states - 1, low + AMPLE)
        lowered = min(high, enough, MAX_STATES // states - 1)
        if lowered < min(high, low + ROOM):
            raise TooManyStatesError
        high = lowered
    last = low if high is None else high
    edges = [((charset.ANY, length + 1),) for length in range(last)]
    end = () if high is not None else ((charset.ANY, last),)
    lengths = Automaton((*edges, end), frozenset(range(low, last + 1)))
    return intersection(whole, lengths)


def intersection(*parts: Automaton) -> Automaton:
    """The texts accepted by all parts; without parts, all texts."""
    common = partial(_product, keep=lambda left_end, right_end: left_end and right_end)
    return reduce(common, parts) if parts else EVERYTHING


def union(*parts: Automaton) -> Automaton:
    if len(parts) < 2:
        return parts[0] if parts else EMPTY
    half = len(parts) // 2  # in halves, so that few products are of large automata
    return _product(union(*parts[:half]), union(*parts[half:]), lambda one, other: one or other)


def difference(left: Automaton, right: Automaton) -> Automaton:
    return _product(left, right, lambda one, other: one and not other)


class _Nfa:
    """For each state, its edges with characters and its empty edges."""

    def __init__(self) -> None:
        self.edges: list[list[tuple[Charset, int]]] = []
        self.silent: list[list[int]] = []

    def state(self) -> int:
        if len(self.edges) > 20 * MAX_STATES:
            raise TooManyStatesError
        spend(3)
        self.edges.append([])
        self.silent.append([])
        return len(self.edges) - 1

    def add(self, regex: Regex) -> tuple[int, int]:
        first, last = self.state(), self.state()
        if isinstance(regex, Chars):
            if regex.charset:
                self.edges[first].append((regex.charset, last))
            return first, last
        if isinstance(regex, Either):
            for part in regex.parts:
                self.silent[self._chain(first, (part,))].append(last)
            return first, last
        if isinstance(regex, Concat):
            at = self._chain(first, regex.parts)
        else:
            at = self._chain(first, (regex.part,) * regex.min)
            if regex.max is None:
                start, end = self.add(regex.part)
                self.silent[at].append(start)
                self.silent[end] += [start, last]
            else:
                for _ in range(regex.max - regex.min):
                    self.silent[at].append(last)
                    at = self._chain(at, (regex.part,))
        self.silent[at].append(last)
        return first, last

    def _chain(self, at: int, parts: tuple[Regex, ...]) -> int:
        for part in parts:
            start, end = self.add(part)
            self.silent[at].append(start)
            at = end
        return at


def _split(edges: Iterable[tuple[Charset, T]]) -> list[tuple[Charset, frozenset[T]]]:
    """Splits overlapping edges into disjoint ones, each with the set of all its targets."""
    edges = list(edges)
    if len(edges) == 1:
        spend(1)
        return [(edges[0][0], frozenset((edges[0][1],)))]
    bounds: list[tuple[int, int, T]] = []
    for chars, target in edges:
        for low, high in chars:
            bounds.append((low, 1, target))
            bounds.append((high + 1, -1, target))
    bounds.sort(key=lambda bound: bound[0])
    work = len(bounds)
    counts: dict[T, int] = {}
    ranges_of: dict[frozenset[T], list[tuple[int, int]]] = {}
    start = 0
    for at, change, target in bounds:
        if at > start and counts:
            work += len(counts) >> 3
            if work > 5000:
                spend(work)
                work = 0
            ranges_of.setdefault(frozenset(counts), []).append((start, at - 1))
        start = at
        counts[target] = counts.get(target, 0) + change
        if not counts[target]:
            del counts[target]
    spend(work)
    return [(charset.normal(ranges), targets) for targets, ranges in ranges_of.items()]


_Pair = tuple[int | None, int | None]


def _product(left: Automaton, right: Automaton, keep: Callable[[bool, bool], bool]) -> Automaton:
    def following(state: _Pair) -> Iterable[tuple[Charset, _Pair]]:
        sides = [
            (chars, (side, target))
            for side, (automaton, at) in enumerate(((left, state[0]), (right, state[1])))
            if at is not None
            for chars, target in automaton.transitions[at]
        ]
        for chars, targets in _split(sides):
            by_side = dict(targets)
            one, other = by_side.get(0), by_side.get(1)
            # If one side has no way on, `keep` decides whether the other side alone matters.
            if (one is not None or keep(False, True)) and (other is not None or keep(True, False)):
                yield chars, (one, other)

    def accepts(state: _Pair) -> bool:
        return keep(state[0] in left.accepting, state[1] in right.accepting)

    start: _Pair = (0, 0)
    return _explore(start, following, accepts)


def _explore(
    start: S,
    following: Callable[[S], Iterable[tuple[Charset, S]]],
    accepts: Callable[[S], bool],
) -> Automaton:
    numbers = {start: 0}
    states = [start]
    transitions: list[dict[int, Charset]] = []
    for state in states:
        sets: dict[int, Charset] = {}
        for chars, target in following(state):
            if target not in numbers:
                if len(states) >= MAX_STATES:
                    raise TooManyStatesError
                numbers[target] = len(states)
                states.append(target)
            number = numbers[target]
            sets[number] = charset.union(sets[number], chars) if number in sets else chars
        spend(6 + 4 * len(sets))
        transitions.append(sets)
    return _tidy(transitions, {number for number, state in enumerate(states) if accepts(state)})


def _reached(begin: Iterable[int], edges: Sequence[Iterable[int]]) -> set[int]:
    seen = set(begin)
    todo = list(seen)
    while todo:
        for target in edges[todo.pop()]:
            if target not in seen:
                seen.add(target)
                todo.append(target)
    return seen


def _tidy(transitions: list[dict[int, Charset]], accepting: set[int]) -> Automaton:
    """Removes states that lead nowhere, and merges those that behave alike."""
    sources: list[list[int]] = [[] for _ in transitions]
    for state, row in enumerate(transitions):
        for target in row:
            sources[target].append(state)
    alive = _reached(accepting, sources)
    if 0 not in alive:
        return EMPTY
    # Merges states with equal behaviour. Most targets have higher numbers than their sources, so
    # going backwards merges targets first.
    same = list(range(len(transitions)))
    while True:
        state_of: dict[object, int] = {}
        changed = False
        spend(sum(map(len, transitions)) + len(alive))
        for state in sorted(alive, reverse=True):
            if same[state] != state:
                continue
            edges: dict[int, Charset] = {}
            for target, chars in transitions[state].items():
                if target in alive:
                    while same[target] != target:
                        target = same[target]
                    edges[target] = (
                        charset.union(edges[target], chars) if target in edges else chars
                    )
            transitions[state] = edges
            key = (state in accepting, frozenset(edges.items()))
            first = state_of.setdefault(key, state)
            if first != state:
                # The start state keeps its number.
                stays, goes = (state, first) if state == 0 else (first, state)
                same[goes] = state_of[key] = stays
                changed = True
        if not changed:
            break
    # States are numbered in the order they are reached.
    order: dict[int, int] = {}
    rows = []
    reached = [0]
    for state in reached:
        if state not in order:
            order[state] = len(order)
            rows.append(sorted((chars, to) for to, chars in transitions[state].items()))
            reached += [target for _, target in rows[-1]]
    return Automaton(
        tuple(tuple((chars, order[target]) for chars, target in row) for row in rows),
        frozenset(order[state] for state in order if state in accepting),
    )


EMPTY = Automaton(((),), frozenset())
EVERYTHING = compile_regex(ANY_TEXT)
