"""A safe calculator for expressions written by a model.

Python's own parser reads it; only the nodes, operators and functions below are evaluated. The
length of the text, its nesting, and the size of powers and factorials are limited.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from decimal import Decimal

from .functions import ToolError

LONGEST = 500  # characters
DEEPEST = 50
MOST_BITS = 4096

Number = int | float

_SPELLINGS = str.maketrans(
    {"^": "**", "×": "*", "·": "*", "÷": "/", "−": "-", "（": "(", "）": ")", "，": ","}
)
_NAMES: dict[str, Number] = {"pi": math.pi, "e": math.e, "tau": math.tau}


class Wrong(ToolError):
    """The text is not a calculation, or exceeds a limit. The message is for the model."""


def _factorial(n: Number) -> Number:
    if not isinstance(n, int) or not 0 <= n <= 200:
        raise Wrong("factorial needs an integer between 0 and 200")
    return math.factorial(n)


def _round(x: Number, digits: Number = 0) -> Number:
    if not isinstance(digits, int) or not 0 <= digits <= 15:
        raise Wrong("round supports 0 to 15 digits")
    return round(x, digits) if digits else round(x)


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


_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "abs": abs, "ceil": math.ceil, "cos": math.cos, "exp": math.exp, "factorial": _factorial,
    "floor": math.floor, "ln": math.log, "log": math.log, "log10": math.log10, "log2": math.log2,
    "max": max, "min": min, "round": _round, "sin": math.sin, "sqrt": math.sqrt, "tan": math.tan,
}  # fmt: skip
_OPERATORS: dict[type[ast.AST], Callable[..., Number]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: _divided,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: _power,
    ast.UAdd: operator.pos, ast.USub: operator.neg,
}  # fmt: skip


def calculate(text: str) -> str:
    """The value of an expression, as text. Raises Wrong."""
    if len(text) > LONGEST:
        raise Wrong(f"the expression is too long: at most {LONGEST} characters are allowed")
    source = " ".join(text.split()).removesuffix("=").translate(_SPELLINGS).lower().strip()
    try:
        return _shown(_value(ast.parse(source, mode="eval").body, 1))
    except (SyntaxError, MemoryError, RecursionError):
        raise Wrong("the expression is invalid or incomplete") from None
    except ZeroDivisionError:
        raise Wrong("division by zero") from None
    except (OverflowError, ValueError, TypeError) as error:
        raise Wrong(f"the result is undefined: {error}") from None


def _value(node: ast.expr, depth: int) -> Number:
    if depth > DEEPEST:
        raise Wrong("the expression is nested too deeply")
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(operand, depth + 1))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            # A long sum is nested on its left, which needs no bracket and has no bound of its own.
            return _bounded(_OPERATORS[type(op)](_value(left, depth), _value(right, depth + 1)))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _bounded(_FUNCTIONS[name](*[_value(value, depth + 1) for value in args]))
        case ast.Name(id=name) | ast.Call(func=ast.Name(id=name)):
            raise Wrong(f"unknown name {name!r}; available: {', '.join(sorted(_FUNCTIONS))}, pi, e")
    raise Wrong("the expression is invalid or incomplete")


def _bounded(value: Number) -> Number:
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise Wrong("the result is too large")
    return value


def _shown(value: Number) -> str:
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        raise Wrong("the result is undefined")
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    # Fifteen digits hide the rounding errors of binary floating point.
    return format(Decimal(f"{value:.15g}").normalize(), "f" if 1e-6 < abs(value) < 1e15 else "g")
