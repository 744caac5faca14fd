"""A calculator: a text of a model's becomes a number, and nothing else.

Strategy: a grammar of its own, read by descent; there is no name, no attribute and no call but of
the functions below. All that could grow is bounded: the text, the depth, the size of a power and
of a factorial.

    sum     = product (("+" | "-") product)*
    product = signed (("*" | "×" | "/" | "÷" | "//" | "%") signed)*
    signed  = ("+" | "-") signed | power
    power   = atom (("^" | "**") signed)?
    atom    = number | name | name "(" sum ("," sum)* ")" | "(" sum ")"
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal

LONGEST = 500  # characters
DEEPEST = 50
MOST_BITS = 4096

Number = int | float

_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d*)?(?:[eE][+-]?\d{1,3})?|\.\d+)|([A-Za-z]+)|(\*\*|//|\S))")
_SAME = {"×": "*", "·": "*", "÷": "/", "−": "-", "**": "^", "（": "(", "）": ")", "，": ","}
_NAMES: dict[str, Number] = {"pi": math.pi, "e": math.e, "tau": math.tau}


class Wrong(ValueError):
    """A text that is no calculation, or one beyond the bounds. The message is for its writer."""


def _factorial(n: Number) -> Number:
    if not isinstance(n, int) or not 0 <= n <= 200:
        raise Wrong("factorial takes a whole number from 0 to 200")
    return math.factorial(n)


def _round(x: Number, digits: Number = 0) -> Number:
    if not isinstance(digits, int) or not 0 <= digits <= 15:
        raise Wrong("round takes from 0 to 15 digits")
    return round(x, digits) if digits else round(x)


_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "abs": abs, "ceil": math.ceil, "cos": math.cos, "exp": math.exp, "factorial": _factorial,
    "floor": math.floor, "ln": math.log, "log": math.log, "log10": math.log10, "log2": math.log2,
    "max": max, "min": min, "round": _round, "sin": math.sin, "sqrt": math.sqrt, "tan": math.tan,
}  # fmt: skip
_TWO = frozenset({"log", "max", "min", "round"})  # those that take two values


def calculate(text: str) -> str:
    """The value of a calculation, as text. Raises Wrong."""
    if len(text) > LONGEST:
        raise Wrong(f"a calculation has {LONGEST} characters at most")
    try:
        return _shown(_Reader(text).whole())
    except ZeroDivisionError:
        raise Wrong("division by zero") from None
    except (OverflowError, ValueError, TypeError) as error:
        raise error if isinstance(error, Wrong) else Wrong("this has no value") from None


def _shown(value: Number) -> str:
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        raise Wrong("this has no value")
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    # Fifteen digits: what two decimal fractions make is not shown with its binary tail.
    return format(Decimal(f"{value:.15g}").normalize(), "f" if 1e-6 < abs(value) < 1e15 else "g")


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        for number, name, mark in _TOKEN.findall(text.rstrip().removesuffix("=")):
            kind = "number" if number else "name" if name else "mark"
            self._tokens.append((kind, number or name.lower() or _SAME.get(mark, mark)))
        self._tokens.append(("end", ""))
        self._at = 0
        self._depth = 0

    def whole(self) -> Number:
        value = self._sum()
        if self._tokens[self._at][0] != "end":
            raise Wrong(f"{self._tokens[self._at][1]!r} is not understood here")
        return value

    def _take(self, *marks: str) -> str:
        kind, text = self._tokens[self._at]
        if kind == "mark" and text in marks:
            self._at += 1
            return text
        return ""

    def _sum(self) -> Number:
        value = self._product()
        while mark := self._take("+", "-"):
            other = self._product()
            value = _bounded(value + other if mark == "+" else value - other)
        return value

    def _product(self) -> Number:
        value = self._signed()
        while mark := self._take("*", "/", "//", "%"):
            other = self._signed()
            if mark == "*":
                value = _bounded(value * other)
            elif mark == "/":
                value = _divided(value, other)
            else:
                value = value // other if mark == "//" else value % other
        return value

    def _signed(self) -> Number:
        self._depth += 1
        if self._depth > DEEPEST:
            raise Wrong("this is nested too deeply")
        if self._take("-"):
            value = -self._signed()
        elif self._take("+"):
            value = self._signed()
        else:
            value = self._atom()
            if self._take("^"):
                value = _power(value, self._signed())
        self._depth -= 1
        return value

    def _atom(self) -> Number:
        kind, text = self._tokens[self._at]
        self._at += 1
        if kind == "number":
            return int(text) if text.isdigit() else float(text)
        if kind == "name":
            if text in _FUNCTIONS and self._take("("):
                return self._called(text)
            if text in _NAMES:
                return _NAMES[text]
            raise Wrong(f"{text!r} is not known; there are {', '.join(sorted(_FUNCTIONS))}, pi, e")
        if (kind, text) == ("mark", "("):
            value = self._sum()
            if not self._take(")"):
                raise Wrong("a bracket is not closed")
            return value
        raise Wrong(f"{text!r} is not understood here" if text else "the calculation breaks off")

    def _called(self, name: str) -> Number:
        values = [self._sum()]
        while self._take(","):
            values.append(self._sum())
        if not self._take(")"):
            raise Wrong("a bracket is not closed")
        if len(values) > 1 and name not in _TWO:
            raise Wrong(f"{name} takes one value")
        if len(values) == 1 and name in ("max", "min"):
            return values[0]
        return _bounded(_FUNCTIONS[name](*values))


def _bounded(value: Number) -> Number:
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise Wrong("the number is too large")
    return value


def _divided(one: Number, other: Number) -> Number:
    if isinstance(one, int) and isinstance(other, int) and other and one % other == 0:
        return one // other
    return one / other


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and isinstance(exponent, int) and exponent >= 0:
        if base not in (-1, 0, 1) and base.bit_length() * exponent > MOST_BITS:
            raise Wrong("the number is too large")
        return int(base**exponent)
    value = base**exponent
    if isinstance(value, complex):
        raise Wrong("this has no real value")
    return float(value)
