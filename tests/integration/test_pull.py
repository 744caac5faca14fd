"""`slotproxy pull` in processes of its own, from a scripted hub on a port of loopback."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.extras import need
from tests.integration.child_processes import command, descendants
from tests.scripted_hub import Hub, serving
from tests.terminal import Terminal
from tools.processes import Gateway, ask

need("pull", "huggingface_hub")

NAME = "Small-Q4_K_M"
DATA = b"GGUF" + os.urandom(1 << 20) * 3
PATIENCE = 120.0


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving({f"{NAME}.gguf": DATA, "Small-Q8_0.gguf": DATA * 2}) as served:
        yield served


def _start(hub: Hub, folder: Path, *words: str) -> subprocess.Popen[str]:
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / ".hub")}
    command = [sys.executable, "-m", "proxy", "pull", *words, "--models-dir", str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=env, text=True, **pipes)  # type: ignore[call-overload,no-any-return]  # of the pipes


def _run(hub: Hub, folder: Path, *words: str) -> tuple[int, str, str]:
    with _start(hub, folder, *words) as running:
        out, err = running.communicate(timeout=PATIENCE)
        return running.returncode, out, err


def _wait(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_command_downloads_a_model(hub: Hub, tmp_path: Path) -> None:
    code, out, err = _run(hub, tmp_path, "hf:maker/Small-GGUF")
    assert (code, err) == (0, "")
    assert f"{NAME} is in {tmp_path}" in out and "made for 32768 tokens" in out
    assert (tmp_path / NAME / f"{NAME}.gguf").read_bytes() == DATA


def test_list_downloads_nothing(hub: Hub, tmp_path: Path) -> None:
    code, out, _ = _run(hub, tmp_path, "hf:maker/Small-GGUF", "--list", "--memory", "5MiB")
    assert code == 0
    assert "Q8_0" in out and "does not fit" in out
    assert not (tmp_path / NAME).exists()


def test_refusals_are_one_line(hub: Hub, tmp_path: Path) -> None:
    hub.status, hub.code = 403, "GatedRepo"
    code, out, err = _run(hub, tmp_path, "hf:maker/Small-GGUF")
    assert (code, out) == (1, "")
    assert err.startswith("slotproxy: maker/Small-GGUF is gated") and err.count("\n") == 1


def test_damaged_contents_are_an_error(hub: Hub, tmp_path: Path) -> None:
    hub.damaged = True
    code, _, err = _run(hub, tmp_path, "hf:maker/Small-GGUF")
    assert code == 1 and "checksum" in err
    assert not (tmp_path / NAME).exists()


def test_a_killed_command_leaves_no_child_and_the_next_one_continues(
    hub: Hub, tmp_path: Path
) -> None:
    hub.pause_after = 1 << 20
    with _start(hub, tmp_path, "hf:maker/Small-GGUF") as running:
        _wait(lambda: [p for p in tmp_path.glob(".downloads/*/*.part") if p.stat().st_size])
        children = descendants(running.pid)
        running.kill()
        running.wait(PATIENCE)
    _wait(lambda: not any(map(command, children)))
    hub.go.set()
    assert _run(hub, tmp_path, "hf:maker/Small-GGUF")[0] == 0
    assert (tmp_path / NAME / f"{NAME}.gguf").read_bytes() == DATA
    ranges = [range_ for _, path, range_, _ in hub.seen if "/resolve/" in path]
    assert ranges[0] == "" and ranges[-1].startswith("bytes=")


def test_ctrl_c_says_how_to_continue(hub: Hub, tmp_path: Path) -> None:
    hub.pause_after = 1 << 20
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / ".hub")}
    words = ("pull", "hf:maker/Small-GGUF", "--models-dir", str(tmp_path))
    with Terminal([sys.executable, "-m", "proxy", *words], env=env) as terminal:
        terminal.until("of 0.00 GB")
        terminal.press("\x03")
        terminal.until("interrupted: the same command continues")
    hub.go.set()


@pytest.mark.slow
def test_a_gigabyte_survives_three_cuts_byte_for_byte(hub: Hub, tmp_path: Path) -> None:
    block = os.urandom(1 << 20)
    data = b"GGUF" + block * 1024
    hub.files = {f"{NAME}.gguf": data}
    hub.cuts = [300 << 20, 1, 400 << 20]
    code, out, err = _run(hub, tmp_path, "hf:maker/Small-GGUF")
    assert (code, err) == (0, ""), out
    with (tmp_path / NAME / f"{NAME}.gguf").open("rb") as made:
        digest = hashlib.file_digest(made, "sha256").hexdigest()
    assert digest == hashlib.sha256(data).hexdigest()
    assert sum("/resolve/" in path for _, path, _, _ in hub.seen) == 4


def test_a_running_gateway_serves_what_it_pulls_without_a_restart(
    hub: Hub, gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hub")}
    flags = ("--models-dir", str(folder), "--llama-server", "sh")
    running = gateway(*flags, "--data", str(tmp_path / "data"), env=env, ready=0)
    body = {"model": "hf.co/maker/Small-GGUF", "stream": False}
    hub.status, hub.code = 403, "GatedRepo"
    assert ask(f"{running.url}/api/pull", body)[0] == 403
    hub.status = 200
    assert ask(f"{running.url}/api/pull", body)[0] == 200
    _wait(lambda: NAME.encode() in ask(f"{running.url}/v1/models")[1])
    assert (folder / NAME / f"{NAME}.gguf").read_bytes() == DATA
    assert ask(f"{running.url}/api/delete", {"model": NAME})[0] == 200
    _wait(lambda: NAME.encode() not in ask(f"{running.url}/v1/models")[1])


def test_a_stop_in_the_middle_is_quick_and_a_restart_continues(
    hub: Hub, gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    hub.pause_after = 1 << 20
    folder = tmp_path / "models"
    folder.mkdir()
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hub")}
    flags = ("--models-dir", str(folder), "--llama-server", "sh", "--data", str(tmp_path / "data"))
    running = gateway(*flags, env=env, ready=0)
    body = {"model": "hf:maker/Small-GGUF"}
    client = threading.Thread(target=ask, args=(f"{running.url}/api/pull", body))
    client.start()
    _wait(lambda: [p for p in folder.glob(".downloads/*/*.part") if p.stat().st_size])
    running.stop()  # fails if it takes too long
    client.join()
    hub.go.set()
    again = gateway(*flags, env=env, ready=0)
    assert ask(f"{again.url}/api/pull", {**body, "stream": False})[0] == 200
    assert (folder / NAME / f"{NAME}.gguf").read_bytes() == DATA
    ranges = [range_ for _, path, range_, _ in hub.seen if "/resolve/" in path]
    assert ranges[0] == "" and ranges[-1].startswith("bytes=")
