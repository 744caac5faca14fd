"""Formats the figures as a table and writes it into docs/performance.md."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import gateways

ROOT = Path(__file__).parent.parent
MARKERS = re.compile(r"(<!-- performance -->\n).*?(<!-- /performance -->)", re.DOTALL)
PROMPTS = re.compile(r"(<!-- prompts -->\n).*?(<!-- /prompts -->)", re.DOTALL)
LOADS = re.compile(r"(<!-- loads -->\n).*?(<!-- /loads -->)", re.DOTALL)
LOADS_HEAD = (
    "| | F: tokens lost, p99 relay, memory | G: a first turn: added, CPU | "
    "G: a next turn: added, CPU |\n"
    "|---|---|---|---|\n"
)
HEAD = (
    "| | A: CPU µs a request, 16 tokens (as nginx's) | E: the same, 64 tokens | "
    "B: CPU µs a token | C: CPU µs a token | D: tokens lost, p99 relay, memory | "
    "added to an answer, to its first token | cold start | idle |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)


def brief(figures: Mapping[str, float]) -> str:
    """Return one line for the terminal."""
    return "  ".join(f"{name} {_number(value)}" for name, value in figures.items())


def table(results: Mapping[str, Any]) -> str:
    """Return the table as Markdown, one row per gateway."""
    rows = [
        f"| {results['labels'][name]} | {' | '.join(_cells(parts))} |"
        for name, parts in results["measured"].items()
        if "whole" in parts
    ]
    return HEAD + "\n".join(rows) + "\n"


def loads(results: Mapping[str, Any]) -> str:
    """Return the table of real loads as Markdown, one row per gateway."""
    rows = []
    for name, parts in results["measured"].items():
        if name == "direct":
            continue
        cells = [_relayed(parts["slow"]) if "slow" in parts else ""]
        long = parts["long"]
        for turn in ("first", "turn"):
            late, spent = long[f"{turn}_ms_added"], long[f"{turn}_cpu_ms"]
            cells.append(f"{late:.1f} ms, {spent:.1f} ms")
        rows.append(f"| {results['labels'][name]} | {' | '.join(cells)} |")
    text = LOADS_HEAD + "\n".join(rows) + "\n"
    if "crowd" in results["measured"].get("slotproxy", {}):
        text += f"\nH: slotproxy: {_relayed(results['measured']['slotproxy']['crowd'])}.\n"
    return text


def _cells(parts: Mapping[str, Mapping[str, float]]) -> list[str]:
    whole, fast, paced, many = (parts[name] for name in ("whole", "fast", "paced", "many"))
    late = [parts["alone"][f"{name}_added"] for name in ("answer_ms", "first_token_ms")]
    return [
        _cost(whole, "us_a_request"),
        _cost(parts["longer"], "us_a_request"),
        _cost(fast, "us_a_token"),
        _cost(paced, "us_a_token"),
        _relayed(many),
        f"{late[0]:.2f} ms, {late[1]:.2f} ms",
        f"{parts['start']['seconds']:.1f} s",
        f"{parts['idle']['percent']:.1f} %",
    ]


def _relayed(many: Mapping[str, float]) -> str:
    return f"{many['tokens_lost']:.0f}, {many['relay_p99_ms']:.0f} ms, {many['memory_mb']:.0f} MB"


def _cost(figures: Mapping[str, float], name: str) -> str:
    times = f" ({_number(figures['times'])}×)" if figures.get("times", 1) != 1 else ""
    share = f", {figures['complete']:.0f} % complete" if figures["complete"] < 99.99 else ""
    return _number(figures[name]) + times + share


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def publish(results: Mapping[str, Any], prompts: str) -> None:
    """Write table and plot into docs/performance.md, between its markers, and the tables of real
    loads and of shared prompts into the README of this folder."""
    python = gateways.environment("plots") / "python"
    subprocess.run([python, Path(__file__).parent / "plots.py"], check=True)
    page = ROOT / "docs" / "performance.md"
    versions = ", ".join(results["versions"])
    text = page.read_text("utf-8")
    block = (
        f"{table(results)}\nMeasured {results['date']} by `make bench` on one core of: "
        f"{results['machine']}; {versions}; medians of {results['repeats']} rounds, each part at "
        f"{results['scale']:.0%} of its full length. The core ran at full speed in "
        f"{results['calm']} % of the samples; in the others it was shared, so absolute times are"
        " upper bounds.\n\n"
        "![CPU of each gateway](images/cpu.svg)\n"
    )
    ours = Path(__file__).with_name("README.md")
    readme = PROMPTS.sub(lambda m: m[1] + prompts + m[2], ours.read_text("utf-8"))
    ours.write_text(LOADS.sub(lambda m: m[1] + loads(results) + m[2], readme), "utf-8")
    page.write_text(MARKERS.sub(lambda m: m[1] + block + m[2], text), "utf-8")
