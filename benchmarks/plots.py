"""Draws results.json as bar charts, PNG and SVG; run it in an environment with matplotlib."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

HERE = Path(__file__).parent
PARTS = (
    ("whole", "us_a_request", "A: whole answers\nµs of CPU a request"),
    ("fast", "us_a_token", "B: streams, as fast as they come\nµs of CPU a token"),
    ("paced", "us_a_token", "C: 256 paced streams\nµs of CPU a token"),
)
OURS, OTHERS = "#1f6f8b", "#b8c4c9"


def draw(results: dict[str, Any]) -> None:
    measured = {k: v for k, v in results["measured"].items() if "whole" in v}
    pyplot.rcParams.update({"font.size": 9, "svg.hashsalt": "slotproxy", "svg.fonttype": "none"})
    figure, axes = pyplot.subplots(1, len(PARTS), figsize=(11, 2.6), sharey=True)
    for axis, (part, figure_name, title) in zip(axes, PARTS, strict=True):
        order = sorted(measured, key=lambda name: -measured[name][part][figure_name])
        if axis is axes[0]:
            names = order
        values = [measured[name][part][figure_name] for name in names]
        colors = [OURS if name == "slotproxy" else OTHERS for name in names]
        bars = axis.barh(names, values, color=colors)
        axis.bar_label(bars, [f"{v:.0f}" if v >= 10 else f"{v:.1f}" for v in values], padding=3)
        axis.set_xscale("log")
        axis.set_xlim(right=max(values) * 4)
        axis.set_title(title, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    images = HERE.parent / "docs" / "images"
    figure.savefig(images / "cpu.svg", metadata={"Date": None})


if __name__ == "__main__":
    draw(json.loads((HERE / "results.json").read_text()))
