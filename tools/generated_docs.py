"""Generates the parts of the documentation that follow from the code, while it is built.

A page has a pair of markers where such a part belongs, as ``<!-- routes -->`` and
``<!-- /routes -->``. mkdocs calls `on_page_markdown`, its hook; tests call `filled`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from proxy.config import SECTIONS, BackendConfig, SettingRow, table
from proxy.scheduling.view import View
from proxy.web.ledger.writer import LedgerCounts
from proxy.web.observability import prometheus
from proxy.web.observability.metrics import Metrics
from proxy.web.pages import connect, texts
from tools import http_reference


def settings() -> str:
    """A heading and a table for each group of settings, and for each table of the file."""
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


def _table(first: str, rows: list[tuple[str, SettingRow]]) -> list[str]:
    lines = [f"| {first} | Default | Meaning |", "|---|---|---|"]
    for name, row in rows:
        default = row.shown_default.replace("|", "\\|")
        lines.append(f"| `{name}` | {f'`{default}`' if default else ''} | {_cell(row.help)} |")
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


EXAMPLES = {
    "address": "http://127.0.0.1:8081",
    "key": connect.KEY,
    "model": connect.MODEL,
    **connect.sizes(0),
}
PLACES = {"terminal": "In a terminal:", "python": "In Python:", "settings": "In its settings:"}


def programs() -> str:
    """A heading for each program of the page Connect, and the text that a reader pastes."""
    lines: list[str] = []
    for program in connect.programs():
        lines += [f"## {program.name}", ""]
        for part in program.part:
            keyless = ", if the gateway needs no key" if part.keyless else ""
            place = PLACES.get(part.where, f"In `{part.where}`:")
            text = connect.filled(part.text, EXAMPLES).rstrip()
            lines += [place.replace(":", f"{keyless}:"), "", f"```{part.language}", text, "```", ""]
        about = f"connect.about.{program.id}"
        if texts.known(about):
            lines += [texts.words("en", about), ""]
    return "\n".join(lines)


def metrics() -> str:
    """A table of all metrics. It needs no gateway: one without backends has every metric."""
    empty: Any = SimpleNamespace(
        scheduler=SimpleNamespace(waiting=0, view=lambda *_: View([], [])),
        registry=SimpleNamespace(backends={}),
        counters=dict,
    )
    lines = ["| Metric | Type | Labels | Meaning |", "|---|---|---|---|"]
    family: Any
    for family in prometheus.families(Metrics(), empty, ledger=LedgerCounts(0, 0, 0)):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in family._labelnames)
        lines.append(f"| `{name}` | {family.type} | {labels} | {_cell(family.documentation)} |")
    return "\n".join(lines)


# By page, the parts by the names of their markers.
PARTS: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "settings.md": {"settings": settings},
    "clients/programs.md": {"programs": programs},
    "metrics.md": {"metrics": metrics},
    "http.md": {"routes": http_reference.routes, "bodies": http_reference.bodies},
}


def filled(page: str, text: str) -> str:
    """The text of a page of docs/ with its generated parts. Raises ValueError if their markers are
    missing."""
    for name, make in PARTS.get(page, {}).items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        head, mark, rest = text.partition(begin)
        _, last, tail = rest.partition(end)
        if not mark or not last:
            raise ValueError(f"{page} has no {begin} … {end}")
        text = f"{head}{begin}\n{make()}\n{end}{tail}"
    return text


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    return filled(page.file.src_uri, markdown)
