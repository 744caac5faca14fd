"""The search of the documentation's site finds the right page first."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest

from tools.servers import ROOT

from .conftest import Open

# The words of readers, and the page that has the answer.
SEARCHES = {
    "vram": "gpus/",
    "gpu": "gpus/",
    "download model": "models/",
    "unload": "models/",
    "system prompt": "clients/pages/",
    "claude code": "clients/programs/",
    "selected model": "clients/anthropic/",
    "connection refused": "troubleshooting/",
    "out of memory": "troubleshooting/",
    "docker": "deploy/container/",
    "rate limit": "team/",
    "ollama": "clients/ollama/",
    "ollama pull": "clients/ollama/",
    "llama-swap": "coming-from/llama-swap/",
    "rollback": "upgrading/",
    "prompt injection": "security/",
    "rag": "knowledge/",
    "default model": "models/",
    "speech": "models/",
    "chat template": "families/",
    "metrics": "metrics/",
}
FIRST = ".md-search-result__item > .md-search-result__link"


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the site."""
    folder = str(tmp_path_factory.mktemp("site"))
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "-d", folder]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    handler = partial(_Silent, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_search_finds_what_readers_type(docs: str, visit: Open) -> None:
    page: Any = visit("about:blank")
    addresses = {}
    for words in SEARCHES:
        page.goto(f"{docs}/?q={words.replace(' ', '+')}")
        address = page.locator(FIRST).first.evaluate("(link) => link.href")
        addresses[words] = urlsplit(address).path.removeprefix("/")
    assert addresses == SEARCHES
