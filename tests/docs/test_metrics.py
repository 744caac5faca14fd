"""The dashboard and the alerts name metrics and labels that exist, and Prometheus accepts them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.docs_pages import ROOT
from tools import generated_docs

DASHBOARD = ROOT / "deploy" / "grafana" / "slotproxy.json"
RULES = ROOT / "deploy" / "prometheus" / "alerts.yaml"
SCRAPE = RULES.with_name("prometheus.yaml")
ROW = re.compile(r"^\| `([^`]+)` \| (\w+) \| ([^|]*) \|", re.M)
NAME = re.compile(r"\b(?:vllm|slotproxy|llamacpp):\w+")
LABELS = re.compile(r"by \(([^)]*)\)|\{([^{}]*)\}")
OWN = {"le", "job", "instance"}


def _metrics() -> dict[str, set[str]]:
    """The names that Prometheus knows, with their labels."""
    known: dict[str, set[str]] = {}
    for name, kind, labels in ROW.findall(generated_docs.metrics()):
        endings = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        known |= {name + ending: {*re.findall(r"`(\w+)`", labels)} for ending in endings}
    return known


def _expressions() -> Iterator[str]:
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (variable["query"] for variable in dashboard["templating"]["list"])
    for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def test_dashboard_and_alerts_name_metrics_that_exist() -> None:
    known = _metrics()
    for expression in _expressions():
        names = NAME.findall(expression)
        assert {*names} <= known.keys(), expression
        labels = set[str]().union(*(known[name] for name in names)) | OWN
        for by, matches in LABELS.findall(expression):
            used = re.findall(r"(\w+)(?==|!)", matches) or re.findall(r"\w+", by)
            assert {*used} <= labels, expression


def test_dashboard_has_no_panel_twice() -> None:
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 10
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)


@pytest.mark.parametrize("words", [("rules", RULES), ("config", "--syntax-only", SCRAPE)], ids=str)
def test_prometheus_accepts_the_files(words: tuple[str | Path, ...]) -> None:
    promtool = shutil.which("promtool") or pytest.skip("no promtool here (Debian: prometheus)")
    command = [promtool, "check", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_reads_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    promtool = shutil.which("promtool") or pytest.skip("no promtool here (Debian: prometheus)")
    wanted = [
        text for text in _expressions() if not text.startswith(("label_values", "prometheus"))
    ]
    rules = [
        {"record": f"r{number}", "expr": text.replace("$__rate_interval", "5m")}
        for number, text in enumerate(wanted)
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    command = [promtool, "check", "rules", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
