"""Generates the settings page of the documentation from the table in ``proxy.config``.

``python -m tools.settings_table`` rewrites the text between the two markers of docs/settings.md;
``--check`` only checks that it is up to date (exit code 1 if not).
"""

from __future__ import annotations

import sys

from proxy.config import SECTIONS, BackendConfig, SettingRow, table
from tools.servers import ROOT

BEGIN, END = "<!-- settings -->", "<!-- /settings -->"
PAGE = ROOT / "docs" / "settings.md"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _table(first: str, rows: list[tuple[str, SettingRow]]) -> list[str]:
    lines = [f"| {first} | Default | Meaning |", "|---|---|---|"]
    for name, row in rows:
        default = row.shown_default.replace("|", "\\|")
        lines.append(f"| `{name}` | {f'`{default}`' if default else ''} | {_cell(row.help)} |")
    return lines


def markdown() -> str:
    """Return a heading and a table for each group, as Markdown."""
    groups: dict[str, list[tuple[str, SettingRow]]] = {}
    for row in table():
        groups.setdefault(row.group, []).append((row.flag, row))
    lines: list[str] = []
    for group, rows in groups.items():
        lines += [f"## {group}", "", *_table("Flag", rows), ""]
    backend = [(row.name, row) for row in table(BackendConfig)]
    lines += ["## Keys of a `[[backend]]` table", "", *_table("Key", backend)]
    for name, struct in SECTIONS.items():
        keys = [(row.name, row) for row in table(struct)]
        lines += ["", f"## Keys of the `[{name}]` table", "", *_table("Key", keys)]
    return "\n".join(lines)


def updated(text: str) -> str:
    """Replace the tables between the markers of ``text``. Raises ``ValueError`` if they are
    missing."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} has no {BEGIN} … {END}")
    return f"{head}{BEGIN}\n{markdown()}\n{END}{tail}"


def main() -> int:
    old = PAGE.read_text(encoding="utf-8")
    new = updated(old)
    if "--check" in sys.argv[1:]:
        return int(old != new)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
