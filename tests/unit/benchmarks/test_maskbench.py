"""The MaskBench harness, on files made up in MaskBench's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import maskbench
from proxy.gbnf import NEW

CASES: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "passes": ({"type": "array", "items": {"type": "integer"}}, [[], [1, 2]], [["a"], {}]),
    "refused": ({"type": "string", "pattern": "^(a)\\1$"}, ["aa"], []),
    "invalid": ({"type": "texts"}, [1], []),
    "good-refused": ({"type": "string"}, ["a", 1], []),
    "bad-accepted": ({"type": "string"}, [1], ["a"]),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, (schema, good, bad) in CASES.items():
        tests = [{"valid": True, "data": document} for document in good]
        tests += [{"valid": False, "data": document} for document in bad]
        (tmp_path / f"{name}.json").write_text(json.dumps({"schema": schema, "tests": tests}))
    return tmp_path


def test_each_file_has_one_verdict(folder: Path) -> None:
    verdicts = {name: maskbench.judge(folder / f"{name}.json", NEW, at_end=True) for name in CASES}
    assert {name: (verdict.outcome, verdict.why) for name, verdict in verdicts.items()} == {
        "passes": ("passed", ""),
        "refused": ("refused", "pattern"),
        "invalid": ("refused", "SchemaError"),
        "good-refused": ("good refused", "1"),
        "bad-accepted": ("bad accepted", "1"),
    }
    assert verdicts["refused"].at_end


def test_all_counts_are_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "verdicts.jsonl"
    maskbench.main([str(folder), "--processes", "1", "--verdicts", str(out)])
    said = capsys.readouterr().out
    assert "5 files: 1 passed, 2 refused, 1 good refused, 1 bad accepted, 0 crashed" in said
    assert "refused by keyword: SchemaError 1, pattern 1" in said or "pattern 1, Schema" in said
    assert len(out.read_text().splitlines()) == 5
