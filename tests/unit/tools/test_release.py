"""The notes and checksums of a release."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from proxy import __version__
from tools import release

CHANGELOG = """# Changelog

## 1.10.0 (unreleased)

- new

## 1.1.0 (2026-01-02)

### Added

- this

## 1.0.0

- first
"""


@pytest.mark.parametrize(
    ("version", "text"),
    [("1.10.0", "- new"), ("1.1.0", "### Added\n\n- this"), ("1.0.0", "- first")],
)
def test_notes_are_the_section_of_the_version(version: str, text: str) -> None:
    assert release.notes(CHANGELOG, version) == f"# slotproxy {version}\n\n{text}\n"


@pytest.mark.parametrize("version", ["1.1", "1.10", "2.0.0", "1.1.0.1"])
def test_version_without_notes_is_refused(version: str) -> None:
    with pytest.raises(release.ReleaseError, match="add a section"):
        release.notes(CHANGELOG, version)


def test_this_version_has_notes() -> None:
    text = (release.ROOT / "CHANGELOG.md").read_text("utf-8")
    assert release.notes(text, __version__)


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="no sha256sum here")
def test_checksums_can_be_checked(tmp_path: Path) -> None:
    files = [tmp_path / "b.whl", tmp_path / "a.tar.gz"]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]) * 1000)
    (tmp_path / "SHA256SUMS").write_text(release.checksums(files))
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "a.tar.gz: OK\nb.whl: OK\n")
    files[0].write_bytes(b"changed")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 1
