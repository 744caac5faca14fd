"""The rows of the settings table, and the validation of a value by its row."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec

from .keys import Secret
from .settings import SECTIONS, Declared, Settings, SettingsError
from .validators import naming

ENV_PREFIX = "SLOTPROXY_"
YEAR = 86400.0 * 365  # seconds; more is no time, and neither is nan


class SettingRow(NamedTuple):
    """A setting, derived from a field of the table."""

    name: str
    type: Any  # without "| None"
    default: Any
    group: str
    help: str
    check: Callable[[Any], Any] | None
    bounds: msgspec.Meta
    section: str = ""  # the table of the file in which it is a key

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}" if self.section else self.name

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return ENV_PREFIX + self.key.replace(".", "_").upper()

    @property
    def is_list(self) -> bool:
        return get_origin(self.type) is tuple

    @property
    def item(self) -> Any:
        """The type of a single value; for a list, that of its elements."""
        return get_args(self.type)[0] if self.is_list else self.type

    @property
    def shown_default(self) -> str:
        """The default as a user would write it; empty for none."""
        if isinstance(self.default, tuple):
            return ",".join(self.default)
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        if isinstance(self.default, float):
            return f"{self.default:g}"
        return "" if self.default is None else str(self.default).replace("\n", "\\n")


@functools.cache
def table(struct: type[msgspec.Struct] = Settings) -> tuple[SettingRow, ...]:
    """The rows of ``Settings``, or of another struct written the same way, in order."""
    hints = get_type_hints(struct)
    rows = []
    declared: tuple[Declared, ...] = struct.rows  # type: ignore[attr-defined]
    for field, said in zip(msgspec.structs.fields(struct), declared, strict=False):
        kind = hints[field.name]
        if get_origin(kind) in (Union, type(int | str)):
            (kind,) = (member for member in get_args(kind) if member is not type(None))
        rows.append(SettingRow(field.name, kind, field.default, *said))
    return tuple(rows)


@functools.cache
def all_rows() -> tuple[SettingRow, ...]:
    """The rows of ``Settings`` and of its tables of the file. Those have no flag."""
    rows = [row._replace(section=name) for name in SECTIONS for row in table(SECTIONS[name])]
    return (*table(), *rows)


def _expected(row: SettingRow) -> str:
    """A description of valid values, for an error message."""
    if get_origin(row.item) is Literal:
        return "one of " + ", ".join(get_args(row.item))
    words = {int: "an integer", float: "a number", bool: "on or off"}.get(row.item, "text")
    if row.bounds.ge is not None:
        words += f" of at least {row.bounds.ge}"
    if row.bounds.gt is not None:
        words += f" greater than {row.bounds.gt}"
    if row.bounds.le is not None:
        words += f" and at most {row.bounds.le}"
    elif row.item is float:
        words += " and at most a year"
    return words


def read_value(row: SettingRow, raw: Any, source: str) -> Any:
    """Validate the text of a flag or variable, or a value of the file. Raises SettingsError."""
    if row.is_list:
        if isinstance(raw, str):
            raw = [raw]
        if not isinstance(raw, list):
            example = f'{row.name} = ["{row.default[0] if row.default else "…"}"]'
            raise SettingsError(f"{source}: expected a text or a list of texts, as {example}")
        pieces: list[Any] = []
        for item in raw:
            pieces += map(str.strip, item.split(",")) if isinstance(item, str) else [item]
        values = (_one(row, piece, source) for piece in pieces if piece != "")
        return tuple(dict.fromkeys(values))
    return _one(row, raw, source)


def _one(row: SettingRow, raw: Any, source: str) -> Any:
    got = "" if row.item is Secret else f", got {raw!r}"
    if row.item is bool and isinstance(raw, str):
        # In addition to true, false, 1 and 0, which msgspec accepts: what --help shows.
        raw = {"on": True, "off": False}.get(raw.lower(), raw)
    try:
        # Text becomes a number, but true must not.
        if isinstance(raw, bool) and row.item is not bool:
            raise msgspec.ValidationError
        kind = str if row.item is Secret else row.item  # its check makes it a Secret
        bounded = kind if row.is_list else Annotated[kind, row.bounds]
        value = msgspec.convert(raw, bounded, strict=False)
        if isinstance(value, float) and not value <= YEAR:
            raise msgspec.ValidationError
    except msgspec.ValidationError:
        raise SettingsError(f"{source}: expected {_expected(row)}{got}") from None
    if isinstance(value, str) and "\0" in value:
        raise SettingsError(f"{source}: contains a NUL character")
    if value == "" == row.default:
        return row.default  # which may be a Secret
    with naming(source):
        return row.check(value) if row.check else value
