"""Automata for the integers and numbers within a schema's bounds, whose digits are compared from
the left.

Integers have no `-0`, fraction or exponent. Bounded numbers have no exponent, and at most 15
significant digits if they have a fraction: up to that length different texts are different doubles.
Unbounded integers have at most 19 digits, and unbounded numbers stay below 1e305: small models loop
on digits, and validators read a double's overflow as infinity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from functools import cache, lru_cache
from math import ceil, floor

from msgspec import Struct
from msgspec.structs import replace

from . import automaton as rx
from . import charset
from .automaton import Automaton
from .regex import read_whole
from .work_budget import spend

INTEGER_DIGITS = 19  # digits of unbounded integers: what 64 bits hold
EXACT_DIGITS = 15  # significant digits that a double distinguishes
MAX_DIGITS = 100  # of a bound; more are a mistake


class NumberBound(Struct, frozen=True):
    """A lower or upper bound; `strict` excludes the value itself."""

    value: Decimal
    strict: bool = False


class Range(Struct, frozen=True):
    """The numbers between two bounds, multiples of `step` if it is set, and of none of the steps in
    `without`."""

    low: NumberBound | None = None
    high: NumberBound | None = None
    step: int | None = None
    without: frozenset[int] = frozenset()

    def at_least(self, low: NumberBound) -> Range:
        if self.low and (self.low.value, self.low.strict) >= (low.value, low.strict):
            return self
        return replace(self, low=low)

    def at_most(self, high: NumberBound) -> Range:
        if self.high and (self.high.value, not self.high.strict) <= (high.value, not high.strict):
            return self
        return replace(self, high=high)

    @property
    def is_empty(self) -> bool:
        if not self.low or not self.high:
            return False
        strict = self.low.strict or self.high.strict
        return self.low.value > self.high.value or (self.low.value == self.high.value and strict)

    def holds(self, value: Decimal) -> bool:
        if self.low and (value < self.low.value or (self.low.strict and value == self.low.value)):
            return False
        if self.high and (
            value > self.high.value or (self.high.strict and value == self.high.value)
        ):
            return False
        whole = value.to_integral_value()
        if value == whole and any(int(whole) % step == 0 for step in self.without):
            return False
        return self.step is None or (value == whole and int(whole) % self.step == 0)


LOWEST = NumberBound(Decimal(-(10**18)))  # a bound of numbers in plain decimals that have no other

_ANY_FRACTION = r"(\.[0-9]*)?"

_INTEGERS = read_whole("0|-?[1-9][0-9]{0,%d}" % (INTEGER_DIGITS - 1))  # noqa: UP031
# 16 digits before the point, as doubles are printed: e+289 keeps them below the largest double.
_EXPONENT = r"[eE](\+?(1[0-9]{0,2}|2([0-8][0-9]?|9)?|[03-9][0-9]?)|-[0-9]{1,3})"
_NUMBERS = read_whole(rf"-?(0|[1-9][0-9]{{0,15}})(\.[0-9]{{1,17}})?({_EXPONENT})?")


@cache
def free() -> tuple[tuple[Automaton, rx.Regex], ...]:
    """The integers and the numbers in no range, also as expressions, which take fewer rules: their
    next character always decides between their parts."""
    return tuple((rx.compile_regex(regex), regex) for regex in (_INTEGERS, _NUMBERS))


@lru_cache(maxsize=64)
def integers(within: Range) -> Automaton:
    """The integers in a range. Raises TooManyStatesError for a large `step`."""
    low = high = 0
    if within.low:
        value = within.low.value
        low = floor(value) + 1 if within.low.strict else ceil(value)
    if within.high:
        value = within.high.value
        high = ceil(value) - 1 if within.high.strict else floor(value)
    most = 10 ** max(INTEGER_DIGITS, *(len(str(abs(bound))) + 1 for bound in (low, high))) - 1
    low, high = low if within.low else -most, high if within.high else most
    parts = list(_between(max(low, 0), high))
    parts += ["-" + digits for digits in _between(max(-high, 1), -low)]
    automaton = _any_of(parts)
    if within.step not in (None, 1):
        assert within.step is not None
        automaton = rx.intersection(automaton, _multiples(within.step))
    for step in within.without:
        automaton = rx.difference(automaton, _multiples(step))
    return automaton


@lru_cache(maxsize=64)
def numbers(within: Range) -> Automaton:
    """The numbers in a range, in plain decimals if it is bounded."""
    if within.step is not None:
        return integers(within)
    if within.without:
        automaton = numbers(replace(within, low=within.low or LOWEST, without=frozenset()))
        for step in within.without:
            automaton = rx.difference(automaton, _with_zeros(_multiples(step)))
        return automaton
    if within.low is None and within.high is None:
        return free()[1][0]
    low, high = within.low, within.high
    parts: list[Automaton] = []
    if high is None or high.value > 0 or (high.value == 0 and not high.strict):
        least = low if low and (low.value > 0 or (low.value == 0 and low.strict)) else None
        parts.append(_magnitudes("", least, high))
    if low is None or low.value < 0:
        least = (
            NumberBound(high.value.copy_negate(), high.strict) if high and high.value <= 0 else None
        )
        most = NumberBound(low.value.copy_negate(), low.strict) if low else None
        parts.append(_magnitudes("-", least, most))
    return rx.union(*parts)


def fractions(within: Range) -> Automaton:
    """The numbers in a range that are not integers, in plain decimals."""
    automaton = numbers(replace(within, low=within.low or LOWEST, step=None, without=frozenset()))
    return rx.difference(automaton, _with_zeros(_multiples(1)))


def without(automaton: Automaton, within: Range, values: Iterable[Decimal]) -> Automaton:
    """The numbers of a language, in plain decimals, that equal none of the values."""
    plain = numbers(replace(within, low=within.low or LOWEST, step=None, without=frozenset()))
    automaton = rx.intersection(automaton, plain)
    for value in values:
        text = f"{value.copy_abs().normalize():f}"
        zeros = "0*" if "." in text else r"(\.0+)?"
        sign = "-" if value < 0 else "-?" if not value else ""
        automaton = rx.difference(automaton, _any_of([sign + text.replace(".", r"\.") + zeros]))
    return automaton


def _with_zeros(whole: Automaton) -> Automaton:
    """The integers of a language, also with a fraction of zeros."""
    end = len(whole.transitions)
    point, zero = (charset.of("."), end), (charset.of("0"), end + 1)
    rows = [
        tuple(sorted((*row, point))) if state in whole.accepting else row
        for state, row in enumerate(whole.transitions)
    ]
    return Automaton((*rows, (zero,), (zero,)), whole.accepting | {end + 1})


def _any_of(patterns: Iterable[str]) -> Automaton:
    """The texts that one of the patterns matches as a whole."""
    return rx.compile_regex(rx.Either(tuple(map(read_whole, patterns))))


def _between(low: int, high: int) -> Iterator[str]:
    """Patterns of the integers from `low` to `high`, both non-negative."""
    first, last = str(low), str(high)
    if low <= high:
        for length in range(len(first), len(last) + 1):
            least = first if length == len(first) else "1" + "0" * (length - 1)
            most = last if length == len(last) else "9" * length
            yield from _same_length(least, most)


def _same_length(low: str, high: str) -> Iterator[str]:
    rest = len(low) - 1
    if set(low) <= {"0"} and set(high) <= {"9"}:
        yield f"[0-9]{{{len(low)}}}"
    elif low[0] == high[0]:
        yield from (low[0] + digits for digits in _same_length(low[1:], high[1:]))
    else:
        yield from (low[0] + digits for digits in _same_length(low[1:], "9" * rest))
        yield from (high[0] + digits for digits in _same_length("0" * rest, high[1:]))
        if int(low[0]) + 1 < int(high[0]):
            yield f"[{int(low[0]) + 1}-{int(high[0]) - 1}][0-9]{{{rest}}}"


def _multiples(step: int) -> Automaton:
    """Digits, with an optional minus, whose value is a multiple of `step`."""
    if step > rx.MAX_STATES - 2:
        raise rx.TooManyStatesError
    spend(10 * step)
    # State 0 is the start, 1 has read the minus, 2 + r has read a number with remainder r.
    rows: list[dict[int, str]] = []
    for rest in (0, 0, *range(step)):
        row: dict[int, str] = {}
        for digit in range(10):
            target = 2 + (rest * 10 + digit) % step
            row[target] = row.get(target, "") + str(digit)
        rows.append(row)
    rows[0][1] = "-"
    edges = (tuple((charset.of(text), target) for target, text in row.items()) for row in rows)
    return Automaton(tuple(edges), frozenset((2,)))


def _magnitudes(sign: str, low: NumberBound | None, high: NumberBound | None) -> Automaton:
    """Plain decimals between non-negative bounds, behind a sign."""
    texts = [f"{bound.value:f}".partition(".") for bound in (low, high) if bound]
    digits = max(EXACT_DIGITS, *(len(whole) + 1 for whole, _, _ in texts), 0)
    shapes = [f"{sign}0{_fraction_of(EXACT_DIGITS)}"]
    for length in range(1, digits + 1):
        shapes.append(f"{sign}[1-9][0-9]{{{length - 1}}}{_fraction_of(EXACT_DIGITS - length)}")
    automaton = _any_of(shapes)
    for bound, fractions_from in ((low, _fractions_at_least), (high, _fractions_at_most)):
        if bound:
            text, _, fraction = f"{bound.value:f}".partition(".")
            number = int(text)
            beyond = (number + 1, 10**digits) if bound is low else (0, number - 1)
            parts = [sign + whole + _ANY_FRACTION for whole in _between(*beyond)]
            equal = fractions_from(fraction.rstrip("0"), bound.strict)
            parts += [f"{sign}{number}{fraction}" for fraction in equal]
            automaton = rx.intersection(automaton, _any_of(parts))
    return automaton


def _fraction_of(digits: int) -> str:
    return rf"(\.[0-9]{{1,{digits}}})?" if digits > 0 else ""


def _fractions_at_least(fraction: str, strict: bool) -> Iterator[str]:
    """Patterns of the fractions, with their point, that are at least 0.`fraction`."""
    if not fraction and not strict:
        yield ""
    yield rf"\.{fraction}[0-9]*" + ("[1-9][0-9]*" if strict else "")
    for at, digit in enumerate(fraction):
        if digit != "9":
            yield rf"\.{fraction[:at]}[{int(digit) + 1}-9][0-9]*"


def _fractions_at_most(fraction: str, strict: bool) -> Iterator[str]:
    """Patterns of the fractions, with their point, that are at most 0.`fraction`."""
    if fraction or not strict:
        yield ""
    if not strict:
        yield rf"\.{fraction}0*"
    for at, digit in enumerate(fraction):
        # A text shorter than the bound's digits is less than the bound.
        yield rf"\.{fraction[:at]}"
        if digit != "0":
            yield rf"\.{fraction[:at]}[0-{int(digit) - 1}][0-9]*"
