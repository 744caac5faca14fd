"""The examples of the documentation, run as they stand in front of a real server of 2023.

Only addresses are replaced, since ports are free ones here, and curl fails on an error.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docs_pages import PAGES, Block, blocks, name, write_files
from tools.processes import Gateway, ModelServer

SERVER, GATEWAY = "http://127.0.0.1:8080", "http://127.0.0.1:8081"
pytestmark = pytest.mark.slow  # every example of every page

TEMPLATE = Path(__file__).parents[2] / "models" / "tinychat.jinja"
CURL = 'curl() { command curl -sS --fail-with-body "$@"; echo; }\nset -euo pipefail\n'
EXAMPLES = [page for page in PAGES if any(block.runs for block in blocks(page))]


@pytest.fixture(scope="module")
def server(start_server: Callable[..., ModelServer], tiny_model: Path) -> Iterator[ModelServer]:
    model_server = start_server("llama-2023", model=tiny_model, slots=4, ctx=8192)
    yield model_server
    model_server.kill()


@pytest.fixture(scope="module")
def module_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def _flags(page: Path, folder: Path, server: ModelServer) -> list[str]:
    """What the page itself starts the gateway with, with the addresses and files of here."""
    shown = [block.flags[0] for block in blocks(page) if block.starts_gateway]
    flags = shown[0] if shown else ["--llama-api", SERVER]
    files = {path.name: str(path) for path in folder.iterdir()}
    return [files.get(flag, flag).replace(SERVER, server.url) for flag in flags]


def _run(block: Block, folder: Path, address: str) -> subprocess.CompletedProcess[str]:
    text = block.text.replace(GATEWAY, address)
    command = ["bash", "-c", CURL + text] if block.language == "sh" else [sys.executable, "-"]
    clean = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    return subprocess.run(
        command,
        input="" if block.language == "sh" else text,
        cwd=folder,
        env=clean,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("page", EXAMPLES, ids=name)
def test_documentation_examples_run(
    page: Path,
    server: ModelServer,
    gateway: Callable[..., Gateway],
    module_gateway: Callable[..., Gateway],
    module_data: Path,
    tmp_path: Path,
) -> None:
    """Pages without their own flags share a gateway."""
    folder = tmp_path / "page"
    folder.mkdir()
    write_files(page, folder)
    flags = _flags(page, folder, server)
    shared = flags == ["--llama-api", server.url]
    start, data = (module_gateway, module_data) if shared else (gateway, tmp_path / "data")
    running = start(*flags, "--chat-template", str(TEMPLATE), "--data", str(data))
    for block in blocks(page):
        if block.runs:
            done = _run(block, folder, running.url)
            assert done.returncode == 0, f"{block.id}\n{done.stdout}\n{done.stderr}"


def test_most_documentation_pages_have_examples() -> None:
    assert len(EXAMPLES) >= 9
