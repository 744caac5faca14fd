"""Checks that a grammar is safe to send to a server, rejecting everything that makes one hang or
abort.

Servers replace the top of each parse stack until a character class is on top. That never ends if a
rule can reach itself without a character, also through parts that may be empty, such as `(x?)*`,
and takes time in proportion to the number of ways.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from heapq import heappop, heappush

from msgspec import Struct, field

from .charset import Charset, contains, gaps, normal
from .gbnf import FORBIDDEN, MAX_NESTING, MAX_TEXT, Places, parse, render
from .values import (
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
)
from .work_budget import spend

MAX_RULES = 20_000  # the old server copies all rules for every request
# Ways from a rule to its first character. The old sampler keeps a stack for each way, and the new
# one walks each way again when it looks for left recursion.
MAX_WAYS = 5_000
_CHARACTERS = frozenset({Literal, CharClass})


def check(text: str, limits: GrammarLimits) -> Grammar:
    """Parses `text` and checks that servers with these limits can handle the grammar. Raises
    GrammarError."""
    grammar, places = parse(text, limits)
    if ROOT not in grammar.rules:
        raise places.error(len(text), f"there is no rule {ROOT!r}")
    for name, offset in places.references.items():
        if name not in grammar.rules:
            raise places.error(offset, f"rule {name!r} is not defined")
    check_rules(grammar, limits, places)
    return grammar


def check_rules(
    grammar: Grammar,
    limits: GrammarLimits,
    places: Places,
    terminates: bool = False,
    most_ways: int = MAX_WAYS,
) -> None:
    """The part of `check` behind the parser. Raises GrammarError. `terminates` says that each rule
    is known to. `most_ways` may lead from a rule to its first character."""
    if len(grammar.rules) > MAX_RULES:
        raise places.error(len(places.text), f"more than {MAX_RULES} rules")
    # The other rules begin with a character in each alternative.
    open_rules = {
        name: alternatives
        for name, alternatives in grammar.rules.items()
        if not all(sequence and type(sequence[0]) in _CHARACTERS for sequence in alternatives)
    }
    empty = settled(open_rules, by_characters=False)
    repeats = _Repeats(limits.max_repeat, empty, places)
    for name, alternatives in grammar.rules.items():
        repeats.names.add(name)
        repeats.rule = name
        repeats.see(alternatives, 0)
    _check_starts(grammar.rules, open_rules, places, most_ways)
    ending = grammar.rules if terminates else settled(grammar.rules, by_characters=True)
    if endless := next((name for name in grammar.rules if name not in ending), None):
        raise places.error(places.rules.get(endless, 0), f"rule {endless!r} can never terminate")
    if not limits.merges_stacks and (example := too_ambiguous(grammar)) is not None:
        what = (
            f"too ambiguous for this server: more than {MAX_STACKS} parses after {example[-40:]!r}"
        )
        raise places.error(places.rules.get(ROOT, 0), what)


class _Repeats(Struct, eq=False):
    """Checks the repetitions of a grammar, whose rules `empty` may be empty. Counts the rules that
    they expand to, as the newer parser does: multiplied by the groups inside."""

    limit: int | None
    empty: set[str]
    places: Places
    rule: str = ""
    names: set[str] = field(default_factory=set)
    unnamed: int = 0  # rules that groups and repetitions expand to

    def see(self, alternatives: Alternatives, depth: int) -> None:
        if depth > MAX_NESTING:
            raise self.error(f"parentheses nested deeper than {MAX_NESTING}")
        for sequence in alternatives:
            for element in sequence:
                kind = type(element)
                if kind is RuleRef:
                    self.names.add(element.name)  # type: ignore[union-attr]
                elif kind not in _CHARACTERS:
                    self.weight(element, depth)
                elif kind is Literal and FORBIDDEN.search(element.text):  # type: ignore[union-attr]
                    raise self.error("a literal contains a character that can never be generated")

    def weight(self, element: Element, depth: int) -> int:
        if isinstance(element, Group):
            before = len(self.names) + self.unnamed
            self.unnamed += 1
            self.see(element.alternatives, depth + 1)
            return max(1, len(self.names) + self.unnamed - before)
        if not isinstance(element, Repeat):
            self.see(((element,),), depth)
            return 1
        low, high = element.min, element.max
        weight = self.weight(element.element, depth) * (high or low or 1)
        if high is None and _holds(element.element, self.empty, by_characters=False):
            raise self.error(
                "unbounded repetition of an expression that can match the empty string"
            )
        self.unnamed += 1 if high is None else high - low
        if self.limit is not None and max(weight, low) > self.limit:
            raise self.error(f"repetitions that expand to more than {self.limit} rules")
        return weight

    def error(self, what: str) -> GrammarError:
        return self.places.error(self.places.rules.get(self.rule, 0), what)


def settled(rules: Mapping[str, Alternatives], by_characters: bool) -> set[str]:
    """The rules that may be empty, or `by_characters`, those that can terminate. It is the smallest
    set of rules with an alternative whose elements are empty, characters or rules of the set."""
    names: set[str] = set()

    def settles(name: str) -> bool:
        holds = _any_holds(rules[name], names, by_characters)
        if holds:
            names.add(name)
        return holds

    _settle(rules, settles)
    return names


def _settle(names: Iterable[str], settles: Callable[[str], bool]) -> list[str]:
    """Asks for each name until no further one settles. Returns those that do not."""
    todo = list(names)
    while True:
        rest = [name for name in todo if not settles(name)]
        if len(rest) == len(todo):
            return rest
        # Most rules are written after those that they refer to, or all before: go there and back.
        todo = rest[::-1]


def references(alternatives: Alternatives) -> Iterator[str]:
    for sequence in alternatives:
        for element in sequence:
            kind = type(element)
            if kind is RuleRef:
                yield element.name  # type: ignore[union-attr]
            elif kind not in _CHARACTERS:
                while isinstance(element, Repeat):
                    element = element.element
                inside = element.alternatives if isinstance(element, Group) else ((element,),)
                yield from references(inside)


def _any_holds(alternatives: Alternatives, settled: Container[str], by_characters: bool) -> bool:
    steps, holds = 0, False
    for sequence in alternatives:
        steps += 1 + (len(sequence) >> 2)
        holds = all(_holds(element, settled, by_characters) for element in sequence)
        if holds:
            break
    spend(steps)
    return holds


def _holds(element: Element, settled: Container[str], by_characters: bool) -> bool:
    if isinstance(element, RuleRef):
        return element.name in settled
    if isinstance(element, Repeat):
        return element.min == 0 or _holds(element.element, settled, by_characters)
    if isinstance(element, Group):
        return _any_holds(element.alternatives, settled, by_characters)
    return by_characters


def _check_starts(
    rules: Mapping[str, Alternatives],
    open_rules: Mapping[str, Alternatives],
    places: Places,
    most_ways: int,
) -> None:
    """Raises GrammarError for left recursion, and for too many ways to a first character.
    `open_rules` are those that may begin with another rule."""
    ways = {name: (len(rules[name]), 0) for name in rules if name not in open_rules}

    def unknown(name: str) -> str:
        """A rule that this one may begin with, and whose ways are not known yet; "" for none."""
        try:
            ways[name] = _ways_of_any(rules[name], ways)
        except KeyError as first:
            return str(first.args[0])
        return ""

    if _settle(open_rules, lambda name: not unknown(name)):
        path = [next(name for name in open_rules if name not in ways)]
        while path[-1] not in path[:-1]:
            path.append(unknown(path[-1]))
        cycle = path[path.index(path[-1]) :]
        shown = cycle if len(cycle) <= 6 else [*cycle[:3], "...", *cycle[-2:]]
        at = places.rules.get(cycle[0], 0)
        raise places.error(at, f"left recursion: {' -> '.join(shown)}")
    for name, (some, none) in ways.items():
        if some + none > most_ways:
            raise places.error(
                places.rules.get(name, 0),
                f"more than {most_ways} paths to the first character of rule {name!r}",
            )


def _ways_of_any(alternatives: Alternatives, ways: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """The number of ways to a first character, and of ways to the empty text. Raises KeyError for
    a rule that comes before them and has no `ways` yet."""
    starts = empty = 0
    for sequence in alternatives:
        spend(1 + (len(sequence) >> 2))
        through = 1
        for element in sequence:
            some, none = _ways_of(element, ways)
            starts += min(through * some, MAX_WAYS + 1)
            through = min(through * none, MAX_WAYS)
            if not through:
                break
        empty += through
    return starts, empty


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
    # A bounded repetition of what may be empty, as servers expand it: x x (x (x)?)?
    spend((element.max or element.min) >> 3)
    total, through = 0, 1
    for left in range(element.max or element.min, 0, -1):
        total, through = total * none + some, through * none + (left > element.min)
        if total > MAX_WAYS:
            break
    return min(total, MAX_WAYS + 1), min(through, MAX_WAYS)


# MAX_WAYS of a schema's grammar, whose alternatives often begin alike for long: with 280 ways, a
# character took 20 ms. Of MaskBench's 11 305 schemas, six have more.
MOST_WAYS = 200


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


# Matches text against a grammar that has passed `check`, by the servers' algorithm, made exact.
#
# The state is the set of parse stacks, each with a character on top. A stack is a chain of frames
# that shares its tail with other stacks. Equal stacks have one number, and the expansion of each is
# cached. A frame is a position in a sequence, or a repetition with its count.

DONE = 0  # the empty stack: the text may end here


class _Choice(Struct, eq=False):
    """Alternatives, each a list of steps. Compared by identity."""

    sequences: list[tuple[_Step, ...]] = field(default_factory=list)


class _Loop(Struct, eq=False):
    """A repetition; `inner` is a choice with one sequence of one step."""

    inner: _Choice
    min: int
    max: int | None


# A step is a character set, a choice or a loop.
_Step = Charset | _Choice | _Loop
# A frame is the non-empty rest of a sequence, or a loop and its count.
_Frame = tuple[tuple[_Step, ...], int] | tuple[_Loop, int]

# Stacks with a character on top, or DONE, and the number of ways that lead to each, which is
# counted up to one more than MAX_STACKS.
States = dict[int, int]


def states_after(grammar: Grammar, text: str) -> States:
    """The states behind a text: none if no text of the language begins like it, and DONE among
    them if it is in the language."""
    program = _Program(grammar)
    states = program.start()
    for char in text:
        if not states:
            break
        states = program.step(states, ord(char))
    return states


def matches(grammar: Grammar, text: str) -> bool:
    return DONE in states_after(grammar, text)


class _Program:
    """A grammar as steps, and all its stacks so far."""

    def __init__(self, grammar: Grammar) -> None:
        self.rules = {name: _Choice() for name in grammar.rules}
        for name, alternatives in grammar.rules.items():
            self._fill(self.rules[name], alternatives)
        # Stacks by number: the top frame and the number of the stack below it.
        self.frames: list[tuple[_Frame, int]] = [(((), 0), DONE)]
        self.numbers: dict[tuple[int, int, int], int] = {}
        self.tops: dict[int, States] = {DONE: {DONE: 1}}
        # What a stack with a character on top reads, and the stack below that character.
        self.reads: dict[int, tuple[Charset, int]] = {}

    def start(self) -> States:
        states: States = {}
        for sequence in self.rules[ROOT].sequences:
            _add(states, self.expand(self.push(sequence, 0, DONE)), 1)
        return states

    def step(self, states: States, code: int) -> States:
        spend(len(states))
        following: States = {}
        for state, count in states.items():
            if state != DONE:
                chars, below = self.reads[state]
                if contains(chars, code):
                    _add(following, self.expand(below), count)
        return following

    def _fill(self, choice: _Choice, alternatives: Alternatives) -> None:
        for sequence in alternatives:
            steps: list[_Step] = []
            for element in sequence:
                if isinstance(element, Literal):
                    steps += [((ord(char), ord(char)),) for char in element.text]
                else:
                    steps.append(self._step(element))
            choice.sequences.append(tuple(steps))

    def _step(self, element: Element) -> _Step:
        if isinstance(element, RuleRef):
            return self.rules[element.name]
        if isinstance(element, CharClass):
            ranges = normal(element.ranges)
            return gaps(ranges) if element.negated else ranges
        choice = _Choice()
        if isinstance(element, Repeat):
            self._fill(choice, ((element.element,),))
            return _Loop(choice, element.min, element.max)
        self._fill(choice, element.alternatives if isinstance(element, Group) else ((element,),))
        return choice

    def push(self, steps: tuple[_Step, ...], at: int, below: int) -> int:
        return self._number((steps, at), below) if at < len(steps) else below

    def _number(self, frame: _Frame, below: int) -> int:
        key = (id(frame[0]), frame[1], below)
        number = self.numbers.get(key)
        if number is None:
            number = self.numbers[key] = len(self.frames)
            self.frames.append((frame, below))
        return number

    def expand(self, stack: int) -> States:
        """What this stack leads to without reading a character. Iterative, deepest first; without
        left recursion no stack leads to itself."""
        todo = [stack]
        while todo:
            current = todo[-1]
            if current in self.tops:
                todo.pop()
                continue
            spend(1)
            following = self.replace(current)
            if following is None:
                self.tops[current] = {current: 1}
            elif missing := [position for position in following if position not in self.tops]:
                todo += missing
            else:
                states: States = {}
                for position in following:
                    _add(states, self.tops[position], 1)
                self.tops[current] = states
        return self.tops[stack]

    def replace(self, stack: int) -> list[int] | None:
        """The stacks that result from replacing the top; None if a character is on top."""
        (owner, count), below = self.frames[stack]
        if isinstance(owner, _Loop):
            following = [below] if count >= owner.min else []
            if owner.max is None or count < owner.max:
                # An unbounded loop need not count beyond its minimum.
                again = min(count + 1, owner.min) if owner.max is None else count + 1
                rest = self._number((owner, again), below)
                following += [self.push(steps, 0, rest) for steps in owner.inner.sequences]
            return following
        step = owner[count]
        rest = self.push(owner, count + 1, below)
        if isinstance(step, tuple):
            self.reads[stack] = step, rest
            return None
        if isinstance(step, _Loop):
            return [self._number((step, 0), rest)]
        return [self.push(steps, 0, rest) for steps in step.sequences]


def _add(states: States, more: States, times: int) -> None:
    spend(1 + (len(more) >> 2))
    for state, count in more.items():
        states[state] = min(states.get(state, 0) + count * times, MAX_STACKS + 1)


# Detects ambiguous grammars that would overload a sampler that keeps equal parse stacks.
#
# If a text has several derivations, the old sampler keeps all of them: `("a" | "a")*` doubles its
# work with every character until it hangs or runs out of memory. Whether any text does so is
# undecidable, but a short best-first search finds what occurs in practice: it extends the text
# with the most stacks, and visits a state again only with more stacks than before.
#
# Only growth that doubles with about every character is rejected. Slower growth is allowed on
# purpose: llama.cpp's own JSON grammar has two derivations for every one-digit number.

MAX_STACKS = 5_000  # parse stacks. Each is matched against the whole vocabulary at every token
LENGTH = 16  # characters of the texts tried; doubling exceeds MAX_STACKS after 13
WORK = 4_000  # stacks advanced in total, which limits the cost of a check
_CANDIDATES = 16  # characters tried after each text


def too_ambiguous(grammar: Grammar) -> str | None:
    """A text after which there are more than MAX_STACKS stacks; None if none was found."""
    program = _Program(grammar)
    start = program.start()
    # Most stacks first; the growing second value breaks ties.
    heap = [(-sum(start.values()), 0, "", start)]
    seen = {frozenset(start): sum(start.values())}
    work = 0
    while heap and work < WORK:
        total, _, text, states = heappop(heap)
        if -total > MAX_STACKS:
            return text
        if len(text) == LENGTH:
            continue
        for code in _candidates(program, states):
            work += len(states)
            following = program.step(states, code)
            key, total = frozenset(following), sum(following.values())
            if total > seen.get(key, 0):
                seen[key] = total
                heappush(heap, (-total, work, text + chr(code), following))
    return None


def _candidates(program: _Program, states: States) -> list[int]:
    """The first characters of the states' ranges: those where the choice differs."""
    begins: dict[int, int] = {}
    for state, count in states.items():
        if state != DONE:
            for low, _ in program.reads[state][0][:_CANDIDATES]:
                begins[low] = begins.get(low, 0) + count
    return sorted(begins, key=lambda low: (-begins[low], low))[:_CANDIDATES]
