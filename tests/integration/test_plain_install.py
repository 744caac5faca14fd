"""A plain install, without any extra, starts and serves, with nothing that the tests bring."""

from __future__ import annotations

from configparser import ConfigParser
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import servers
from tools.processes import Gateway, ModelServer

# Takes effect in the gateway and in its workers, before anything else is imported.
HIDING = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec
hidden = frozenset(%r)
PathFinder.find_spec = lambda name, *more: None if name in hidden else find(name, *more)
"""


def _plain() -> set[str]:
    """The distributions that slotproxy without extras asks for, and what they ask for in turn."""
    config = ConfigParser()
    config.read(servers.ROOT / "setup.cfg", encoding="utf-8")
    queue = [(line, "") for line in config["options"]["install_requires"].split("\n") if line]
    pairs: set[tuple[str, str]] = set()
    while queue:
        line, by = queue.pop()
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": by}):
            continue
        name = canonicalize_name(wanted.name)
        for extra in {"", *wanted.extras} - {known for to, known in pairs if to == name}:
            pairs.add((name, extra))
            queue += [(required, extra) for required in distribution(name).requires or ()]
    return {name for name, _ in pairs}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    plain = _plain()
    of = packages_distributions()
    hidden = [
        module
        for module, names in of.items()
        if not plain & {canonicalize_name(name) for name in names} and module != "proxy"
    ]
    assert {"numpy", "pytest", "sqlalchemy"} <= set(hidden)
    folder = tmp_path_factory.mktemp("hiding")
    (folder / "sitecustomize.py").write_text(HIDING % (sorted(hidden),), encoding="utf-8")
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize("server", ["gunicorn", "waitress"])
def test_plain_install_answers_and_names_missing_extras(
    server: str, plain: dict[str, str], old_server: ModelServer, tmp_path: Path
) -> None:
    flags = ["--llama-api", old_server.url, "--server", server, "--metrics"]
    gateway = Gateway([*flags, "--data", str(tmp_path)], tmp_path / "gateway.log", env=plain)
    try:
        gateway.start()
        with httpx.Client(base_url=gateway.url, timeout=60) as client:
            body = {"messages": [{"role": "user", "content": "Hi."}], "max_tokens": 8}
            tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
            for more in ({}, {"stream": True}, {"tools": [tool], "tool_choice": "required"}):
                answer = client.post("/v1/chat/completions", json=body | more)
                assert answer.status_code == 200, answer.text
            assert client.get("/metrics").status_code == 200
            assert client.get("/").status_code == 200
            refused = client.post("/v1/vector_stores", json={"name": "x"})
            assert refused.status_code >= 400
            assert "extra `knowledge`" in refused.text
    finally:
        gateway.kill()
