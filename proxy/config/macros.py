"""Macros of the models' tables: ``${name}`` stands for a value that is defined once. Pure.

Three names are ours: ``${MODEL_ID}`` is the name of the model, ``${env.NAME}`` a variable of the
environment; ``${PORT}`` and ``${PID}`` stay until a server starts. Another name that is not defined
stays as it is. A text that is nothing but a macro becomes its value, with its type. The rules are
those of llama-swap's configuration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

RESERVED = ("PORT", "PID", "MODEL_ID")
_MARK = re.compile(r"\$\{(env\.[A-Za-z_][A-Za-z0-9_]*|[A-Za-z0-9_-]{1,63})\}")

Value = str | int | float | bool


def defined(raw: object, before: Mapping[str, Value] = {}) -> dict[str, Value]:
    """The macros of a table, not filled in yet, behind those of `before`. Raises ValueError."""
    if not isinstance(raw, Mapping):
        raise ValueError("macros: expected a table of names and values")
    macros = dict(before)
    for name, value in raw.items():
        if not isinstance(name, str) or not _MARK.fullmatch(f"${{{name}}}") or "." in name:
            raise ValueError(
                f"macros: {str(name)[:100]!r}: expected up to 63 letters, digits, - and _"
            )
        if name in RESERVED:
            raise ValueError(f"macros: {name} is reserved")
        if not isinstance(value, str | int | float | bool):
            raise ValueError(f"macros: {name}: expected a text, a number, true or false")
        macros[name] = value
    return macros


def for_model(
    name: str, macros: Mapping[str, Value], environ: Mapping[str, str]
) -> dict[str, Value]:
    """The macros of a model, "" for all else, filled in with those before. Raises ValueError."""
    done: dict[str, Value] = {"MODEL_ID": name} if name else {}
    for macro, value in macros.items():
        done[macro] = filled(value, done, environ)
    return done


def filled(value: Any, macros: Mapping[str, Value], environ: Mapping[str, str]) -> Any:
    """A value with the macros in all of its texts filled in. Raises ValueError."""
    if isinstance(value, str):
        return _text(value, macros, environ)
    if isinstance(value, list):
        return [filled(item, macros, environ) for item in value]
    if isinstance(value, dict):
        return {key: filled(item, macros, environ) for key, item in value.items()}
    return value


def unknown(value: Any) -> str:
    """The first name in a value that is not defined, "" if there is none."""
    if isinstance(value, str):
        return next((name for name in _MARK.findall(value) if name not in RESERVED), "")
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, map(unknown, parts)), "")


def _text(text: str, macros: Mapping[str, Value], environ: Mapping[str, str]) -> Value:
    def of(mark: re.Match[str]) -> Value:
        name = mark[1]
        if name.startswith("env."):
            if name[4:] not in environ:
                raise ValueError(f"{mark[0]}: the environment has no variable {name[4:]}")
            return environ[name[4:]]
        return macros.get(name, mark[0])

    def shown(mark: re.Match[str]) -> str:
        value = of(mark)
        return str(value).lower() if isinstance(value, bool) else str(value)

    whole = _MARK.fullmatch(text)
    return of(whole) if whole else _MARK.sub(shown, text)
