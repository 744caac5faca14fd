"""Draws traces.json for docs/traces.md; run it in an environment with matplotlib."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

HERE = Path(__file__).parent
PANELS = (
    ("cached", 100, "% of prompt tokens cached"),
    ("p50", 1, "first token, median, s"),
    ("p99", 1, "first token, p99, s"),
)
SHADES = ("#d5dcdf", "#b0bcc1", "#7f9097", "#1f6f8b")  # ours last
BOUND = "#c0392b"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw a line of panels for each trace, with a group of bars for each setting."""
    pyplot.rcParams.update({"font.size": 8, "svg.hashsalt": "slotproxy", "svg.fonttype": "none"})
    traces = {name: [*some] for name, some in groupby(rows, lambda row: row["trace"])}
    figure, grid = pyplot.subplots(len(traces), 3, figsize=(11, 2.2 * len(traces)), squeeze=False)
    for axes, (name, of_trace) in zip(grid, traces.items(), strict=True):
        settings = {
            key: [*some]
            for key, some in groupby(of_trace, lambda row: f"{row['backends']}×{row['slots']}")
        }
        for axis, (field, factor, title) in zip(axes, PANELS, strict=True):
            for place, some in enumerate(settings.values()):
                for number, row in enumerate(some):
                    at, label = place + 0.2 * (number - 1.5), "" if place else row["policy"]
                    axis.bar(at, factor * row[field], 0.2, color=SHADES[number], label=label)
                if field == "cached":
                    label = "" if place else "knowing the future"
                    ends = place - 0.4, place + 0.4
                    axis.hlines(100 * some[0]["bound"], *ends, color=BOUND, lw=1, label=label)
            if field != "cached":
                axis.set_yscale("log")
            elif not any(row["bound"] for row in of_trace):
                axis.set_visible(False)  # the trace tells nothing of prefixes
                continue
            axis.set_xticks(range(len(settings)), list(settings), rotation=30, fontsize=7)
            axis.set_title(f"{name}: {title}", fontsize=8)
            axis.spines[["top", "right"]].set_visible(False)
    labels = grid[-1][0].get_legend_handles_labels()
    figure.legend(*labels, fontsize=8, loc="upper left", bbox_to_anchor=(0.06, 0.97))
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    target = HERE.parent / "docs" / "images" / "traces.svg"
    draw(json.loads((HERE / "traces.json").read_text("utf-8")), target)
