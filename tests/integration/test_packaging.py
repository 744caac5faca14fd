"""A wheel contains everything that a checkout has."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from proxy.runtime import resources
from tools.servers import ROOT

SOURCES = ("proxy", "models", "templates", "setup.py", "setup.cfg", "LICENSE")


def _files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_checkout_reads_its_own_templates() -> None:
    assert resources.templates() == ROOT / "templates"


@pytest.mark.slow
def test_wheel_contains_code_templates_and_static_files(tmp_path: Path) -> None:
    # From a copy: building leaves folders behind.
    source = tmp_path / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy2(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", "--no-index", "-w", str(tmp_path), str(source)],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)

    sources = {f"proxy/{name}" for name in _files(ROOT / "proxy") if not name.endswith(".md")}
    assert sources <= _files(installed)
    assert _files(installed / "proxy" / "templates") == _files(ROOT / "templates")
    assert not (installed / "tests").exists()
    assert not (installed / "tools").exists()

    code = "import proxy.runtime.resources as r; print(r.__file__); print(r.templates())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        str(installed / "proxy" / "runtime" / "resources.py"),
        str(installed / "proxy" / "templates"),
    ]
