"""A download with its real child, whose library speaks to a scripted hub without sockets."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.downloads.child import Job
from proxy.downloads.choice import Reference
from proxy.downloads.download import Download, Downloads
from proxy.errors import BadRequest, NotFound
from proxy.runtime import subprocesses
from tests.extras import need
from tests.fakes import wait_until

need("pull", "huggingface_hub")

NAME = "Small-Q4_K_M"
SIZE = 1 << 20
ROOT = Path(__file__).resolve().parents[3]
PROGRAM = f"""
import json, sys, threading
sys.path.insert(0, {str(ROOT)!r})
import httpx2
from huggingface_hub import set_client_factory
from proxy.downloads import child
from tests.scripted_hub import Hub

hub = Hub({{"{NAME}.gguf": bytes(range(256)) * 4096}})
for name, value in json.loads(sys.argv[1]).items():
    setattr(hub, name, value)
if hub.waits:  # for ever, once the hub has nothing more to send
    child.time.sleep = lambda seconds: threading.Event().wait()
    child.TRIES = 1 << 30
transport = hub.transport()
set_client_factory(lambda: httpx2.Client(transport=transport, follow_redirects=True))
child.main()
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """The behaviour of the hub of the next child."""
    script: dict[str, Any] = {"waits": False}
    program = tmp_path / "child.py"
    program.write_text(PROGRAM)
    monkeypatch.setattr(
        subprocesses, "command", lambda module: [sys.executable, str(program), json.dumps(script)]
    )
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return script


def _job(folder: Path, quantization: str = "") -> Job:
    return Job(Reference("maker/Small-GGUF", quantization), str(folder))


def test_model_arrives_through_cuts(hub: dict[str, Any], tmp_path: Path) -> None:
    hub["cuts"] = [SIZE // 2, SIZE // 4]
    download = Download(_job(tmp_path))
    download.wait()
    assert (download.said.chosen, download.bytes) == (NAME, SIZE)
    assert (tmp_path / NAME / f"{NAME}.gguf").read_bytes() == bytes(range(256)) * 4096


def test_errors_keep_their_kind(hub: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no 'Q8_0': it has Q4_K_M"):
        Download(_job(tmp_path, "Q8_0")).wait()
    hub |= {"status": 404, "code": "RepoNotFound"}
    with pytest.raises(NotFound, match="no repository"):
        Download(_job(tmp_path)).wait()


def test_a_cancelled_download_is_continued_and_another_one_is_refused_meanwhile(
    hub: dict[str, Any], tmp_path: Path
) -> None:
    hub |= {"cuts": [SIZE // 2, *[0] * 10], "waits": True}
    download = Download(_job(tmp_path))
    wait_until(lambda: download.bytes == SIZE // 2, 60)
    with pytest.raises(BadRequest, match="another download"):
        Download(_job(tmp_path)).wait()
    download.cancel()
    with pytest.raises(BadRequest, match="cancelled"):
        download.wait()
    hub |= {"cuts": [], "waits": False, "wants": f"bytes={SIZE // 2}-"}
    Download(_job(tmp_path)).wait()
    assert (tmp_path / NAME / f"{NAME}.gguf").stat().st_size == SIZE


def test_models_come_and_go(hub: dict[str, Any], tmp_path: Path) -> None:
    changes: list[int] = []
    downloads = Downloads(str(tmp_path), lambda: 0, lambda: changes.append(1))
    said, fitting = downloads.offers(Reference("maker/Small-GGUF"))
    assert ([model.name for model in said.models], fitting) == ([NAME], 0)
    downloads.start(Reference("maker/Small-GGUF")).wait()
    wait_until(lambda: len(changes) == 1, 60)
    assert [*downloads.files()] == [NAME]
    downloads.delete(NAME)
    assert downloads.files() == {}
    assert not (tmp_path / NAME).exists()
