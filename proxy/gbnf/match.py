"""Matches text against a grammar that has passed `check`, by the servers' algorithm, made exact.

The state is the set of parse stacks, each with a character on top. A stack is a chain of frames
that shares its tail with other stacks. Equal stacks have one number, and the expansion of each is
cached. A frame is a position in a sequence, or a repetition with its count.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush

from .charset import Charset, contains, gaps, normal
from .values import (
    MAX_CODE_POINT,
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
from .work_budget import spend

DONE = 0
"""The empty stack: the text may end here."""


@dataclass(eq=False, slots=True)
class _Choice:
    """Alternatives, each a list of steps. Compared by identity."""

    sequences: list[tuple[_Step, ...]] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class _Loop:
    """A repetition; `inner` is a choice with one sequence of one step."""

    inner: _Choice
    min: int
    max: int | None


# A step is a character set, a choice or a loop.
_Step = Charset | _Choice | _Loop
# A frame is the non-empty rest of a sequence, or a loop and its count.
_Frame = tuple[tuple[_Step, ...], int] | tuple[_Loop, int]


States = dict[int, int]
"""Stacks with a character on top, or DONE, and the number of ways that lead to each, which is
counted up to one more than MAX_STACKS."""


class Matcher:
    """Matches streamed text against a grammar."""

    def __init__(self, grammar: Grammar) -> None:
        self._program = _Program(grammar)
        self._states = self._program.start()

    def feed(self, text: str) -> bool:
        """Appends text. Returns False, from then on, if no text of the language begins like
        this."""
        for char in text:
            if not self._states:
                break
            self._states = self._program.step(self._states, ord(char))
        return bool(self._states)

    @property
    def complete(self) -> bool:
        """Whether the text so far is in the language."""
        return DONE in self._states


def matches(grammar: Grammar, text: str) -> bool:
    """Whether `text` is in the language of `grammar`."""
    matcher = Matcher(grammar)
    return matcher.feed(text) and matcher.complete


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
        """The states after one more character."""
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
        if isinstance(element, Group):
            self._fill(choice, element.alternatives)
        elif isinstance(element, Repeat):
            self._fill(choice, ((element.element,),))
            return _Loop(choice, element.min, element.max)
        else:
            return ((0, MAX_CODE_POINT),)
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
            elif missing := [one for one in following if one not in self.tops]:
                todo += missing
            else:
                states: States = {}
                for one in following:
                    _add(states, self.tops[one], 1)
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

MAX_STACKS = 5_000
"""Maximum parse stacks. Each is matched against the whole vocabulary at every token."""

LENGTH = 16
"""Maximum characters of the texts tried; doubling exceeds MAX_STACKS after 13."""

WORK = 4_000
"""Maximum stacks advanced in total, which limits the cost of a check."""

_CANDIDATES = 16
"""Characters tried after each text."""


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
