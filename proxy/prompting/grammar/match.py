"""Whether a text is in a grammar's language, or may still become so, character by character.

Strategy: what the servers do, made exact. The state is the set of parse stacks, each ending at a
character. A stack is a chain of frames that shares its tail with other stacks; frames are numbered
as they first occur, so that equal stacks are one number, whatever they were reached by, and the
replacement of a frame by what may stand first in it is remembered. A frame is a place in a sequence
or a repetition with its count, so `{0,2000}` costs nothing until it is walked.

The grammar is one that `check` has passed: without that the replacement might never end.
"""

from __future__ import annotations

from .charset import Charset, contains, gaps, normal
from .effort import spend
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

DONE = 0
"""The number of the empty stack: the text may end here."""


class _Choice:
    """Alternatives, each a list of steps; compared by identity."""

    __slots__ = ("sequences",)

    def __init__(self) -> None:
        self.sequences: list[tuple[_Step, ...]] = []


class _Loop:
    """A repetition; `inner` is a choice with one sequence of one step."""

    __slots__ = ("inner", "max", "min")

    def __init__(self, inner: _Choice, low: int, high: int | None) -> None:
        self.inner, self.min, self.max = inner, low, high


# A step is a character (any of a set), a choice to enter or a loop to enter.
_Step = Charset | _Choice | _Loop
# A frame is the rest of a sequence, never empty, or a loop and how often it went round.
_Frame = tuple[tuple[_Step, ...], int] | tuple[_Loop, int]


class Matcher:
    """Feed it text; ask whether the text so far may be continued, and whether it is whole."""

    def __init__(self, grammar: Grammar) -> None:
        self._program = Program(grammar)
        self._states = self._program.start

    def feed(self, text: str) -> bool:
        """Take more text. False when no text of the language starts like this; it stays so."""
        for char in text:
            if not self._states:
                break
            self._states = self._program.step(self._states, ord(char))
        return bool(self._states)

    @property
    def alive(self) -> bool:
        """Whether the text so far is, or may be continued to, a text of the language."""
        return bool(self._states)

    @property
    def complete(self) -> bool:
        """Whether the text so far is a text of the language."""
        return DONE in self._states

    def copy(self) -> Matcher:
        """A matcher at the same place, to try a continuation with."""
        other = Matcher.__new__(Matcher)
        other._program, other._states = self._program, self._states
        return other


def matches(grammar: Grammar, text: str) -> bool:
    """Whether `text` is in the language of `grammar`."""
    matcher = Matcher(grammar)
    return matcher.feed(text) and matcher.complete


class Program:
    """A grammar as steps, and all its stacks met so far."""

    def __init__(self, grammar: Grammar) -> None:
        self.rules = {name: _Choice() for name in grammar.rules}
        for name, alternatives in grammar.rules.items():
            self._fill(self.rules[name], alternatives)
        # Stacks by number: the frame on top and the number of the stack below it.
        self.frames: list[tuple[_Frame, int] | None] = [None]
        self.numbers: dict[tuple[int, int, int], int] = {}
        self.tops: dict[int, frozenset[int]] = {DONE: frozenset((DONE,))}
        self.starts = [self.push(sequence, 0, DONE) for sequence in self.rules[ROOT].sequences]
        self.start = frozenset(state for stack in self.starts for state in self.expand(stack))

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

    def expand(self, stack: int) -> frozenset[int]:
        """The stacks with a character on top that this one may become without reading one."""
        found = self.tops.get(stack)
        if found is not None:
            return found
        tops: set[int] = set()
        seen = {stack}
        todo = [stack]
        while todo:
            current = todo.pop()
            spend(1)
            following = self.replace(current)
            if following is None:
                tops.add(current)
                continue
            for one in following:
                if one not in seen:
                    seen.add(one)
                    todo.append(one)
        found = self.tops[stack] = frozenset(tops)
        return found

    def replace(self, stack: int) -> list[int] | None:
        """The stacks it becomes when its top is replaced; None when a character is on top."""
        top = self.frames[stack]
        if top is None:
            return None
        (owner, count), below = top
        if isinstance(owner, _Loop):
            following = [below] if count >= owner.min else []
            if owner.max is None or count < owner.max:
                # Past its least count an unbounded loop need not count on.
                again = min(count + 1, owner.min) if owner.max is None else count + 1
                rest = self._number((owner, again), below)
                following += [self.push(steps, 0, rest) for steps in owner.inner.sequences]
            return following
        step = owner[count]
        if isinstance(step, tuple):
            return None
        rest = self.push(owner, count + 1, below)
        if isinstance(step, _Loop):
            return [self._number((step, 0), rest)]
        return [self.push(steps, 0, rest) for steps in step.sequences]

    def charset(self, state: int) -> Charset:
        """The characters that the stack `state`, not the empty one, can go on with."""
        top = self.frames[state]
        assert top is not None
        (owner, at), _ = top
        assert isinstance(owner, tuple)
        step = owner[at]
        assert isinstance(step, tuple)
        return step

    def below(self, state: int) -> int:
        """The stack without the character on top of `state`."""
        top = self.frames[state]
        assert top is not None
        (owner, at), below = top
        assert isinstance(owner, tuple)
        return self.push(owner, at + 1, below)

    def step(self, states: frozenset[int], code: int) -> frozenset[int]:
        found: set[int] = set()
        spend(len(states))
        for state in states:
            if state != DONE and contains(self.charset(state), code):
                found |= self.expand(self.below(state))
        return frozenset(found)
