"""A safe calculator for expressions written by a model.

A recursive-descent parser with no names, attributes or calls other than those below. The length of
the text, its nesting, and the size of powers and factorials are limited.

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
    """The text is not a calculation, or exceeds a limit. The message is for the model."""


def _factorial(n: Number) -> Number:
    if not isinstance(n, int) or not 0 <= n <= 200:
        raise Wrong("factorial needs an integer between 0 and 200")
    return math.factorial(n)


def _round(x: Number, digits: Number = 0) -> Number:
    if not isinstance(digits, int) or not 0 <= digits <= 15:
        raise Wrong("round supports 0 to 15 digits")
    return round(x, digits) if digits else round(x)


_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "abs": abs, "ceil": math.ceil, "cos": math.cos, "exp": math.exp, "factorial": _factorial,
    "floor": math.floor, "ln": math.log, "log": math.log, "log10": math.log10, "log2": math.log2,
    "max": max, "min": min, "round": _round, "sin": math.sin, "sqrt": math.sqrt, "tan": math.tan,
}  # fmt: skip
_TWO = frozenset({"log", "max", "min", "round"})  # functions that accept two arguments


def calculate(text: str) -> str:
    """The value of an expression, as text. Raises Wrong."""
    if len(text) > LONGEST:
        raise Wrong(f"the expression is too long: at most {LONGEST} characters are allowed")
    try:
        return _shown(_Reader(text).whole())
    except ZeroDivisionError:
        raise Wrong("division by zero") from None
    except (OverflowError, ValueError, TypeError) as error:
        raise error if isinstance(error, Wrong) else Wrong("the result is undefined") from None


def _shown(value: Number) -> str:
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        raise Wrong("the result is undefined")
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    # Fifteen digits hide the rounding errors of binary floating point.
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
            raise Wrong(f"unexpected {self._tokens[self._at][1]!r}")
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
            raise Wrong("the expression is nested too deeply")
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
            raise Wrong(f"unknown name {text!r}; available: {', '.join(sorted(_FUNCTIONS))}, pi, e")
        if (kind, text) == ("mark", "("):
            value = self._sum()
            if not self._take(")"):
                raise Wrong("missing closing bracket")
            return value
        raise Wrong(f"unexpected {text!r}" if text else "unexpected end of expression")

    def _called(self, name: str) -> Number:
        values = [self._sum()]
        while self._take(","):
            values.append(self._sum())
        if not self._take(")"):
            raise Wrong("missing closing bracket")
        if len(values) > 1 and name not in _TWO:
            raise Wrong(f"{name} takes exactly one argument")
        if len(values) == 1 and name in ("max", "min"):
            return values[0]
        return _bounded(_FUNCTIONS[name](*values))


def _bounded(value: Number) -> Number:
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise Wrong("the result is too large")
    return value


def _divided(value: Number, divisor: Number) -> Number:
    if isinstance(value, int) and isinstance(divisor, int) and divisor and value % divisor == 0:
        return value // divisor
    return value / divisor


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and isinstance(exponent, int) and exponent >= 0:
        if base not in (-1, 0, 1) and base.bit_length() * exponent > MOST_BITS:
            raise Wrong("the result is too large")
        return int(base**exponent)
    value = base**exponent
    if isinstance(value, complex):
        raise Wrong("the result is not a real number")
    return float(value)
