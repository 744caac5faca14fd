"""A few hundred cases of each fuzzer of a running gateway, the same on every run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import bodies, uploads
from tests.fuzz.subject import running, told
from tests.thorough import FEW
from tools import servers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path("/proc/self/task").is_dir(), reason="memory and times are read from /proc"
    ),
]


@pytest.fixture(autouse=True)
def server_is_built() -> None:
    if servers.find("llama-2023") is None:
        pytest.skip("llama-2023 is not built: python -m tools.servers build llama-2023")


def test_no_body_breaks_a_route(tmp_path: Path) -> None:
    with running(tmp_path, keys=True) as subject:
        report, _ = bodies.fuzz(subject, seed=1, count=150)
    assert not subject.findings, told(report, subject, tmp_path)
    assert subject.counts["2xx"] > 20 and subject.counts["4xx"] > 60


def test_no_file_breaks_an_upload(tmp_path: Path) -> None:
    with running(tmp_path, keys=False, more=uploads.FLAGS) as subject:
        report, uploader = uploads.fuzz(subject, seed=1, count=25 if FEW else 60, unread=3)
    assert not subject.findings, told(report, subject, tmp_path)
    assert uploader.ways["file"] > 1 and uploader.states["ready"] > 0
