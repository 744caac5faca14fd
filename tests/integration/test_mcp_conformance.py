"""The public conformance suite of the Model Context Protocol, against /mcp."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests import thorough
from tools import mcp_conformance
from tools.processes import Gateway, ModelServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (thorough.ALL and mcp_conformance.find()),
        reason="make test-all runs it, if npm is installed (tools.mcp_conformance)",
    ),
]


TOOLS = ("test_simple_text", "test_error_handling", "test_tool_with_progress")
SOURCE = '''
import time


def test_simple_text() -> str:
    """Return a text"""
    return "This is a simple text response for testing."


def test_error_handling() -> str:
    """Fail"""
    raise ValueError("This tool intentionally returns an error for testing")


def test_tool_with_progress() -> str:
    """Take long enough for several reports of progress"""
    time.sleep(8)
    return "done"
'''


@pytest.fixture(scope="module")
def served(
    start_server: Callable[..., ModelServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway with the tools that the suite calls, as functions of an installed package."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "conformance_tools.py").write_text(SOURCE)
    meta = folder / "conformance_tools-1.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: conformance-tools\nVersion: 1\n")
    points = "".join(f"{name} = conformance_tools:{name}\n" for name in TOOLS)
    (meta / "entry_points.txt").write_text("[slotproxy.tools]\n" + points)
    server = start_server("llama-2023")
    flags = ("--llama-api", server.url, *(f"--tools={name}" for name in TOOLS))
    env = {"PYTHONPATH": str(folder), "SLOTPROXY_LOCAL_EMBEDDINGS": "false"}
    gateway = Gateway(flags, folder / "gateway.log", env=env, python=("-W", "error"))
    try:
        gateway.start(ready=60.0)
        yield gateway
    finally:
        gateway.kill()


@pytest.mark.parametrize("scenario", mcp_conformance.SCENARIOS)
def test_server_conforms(scenario: str, served: Gateway) -> None:
    done = mcp_conformance.run(served.url + "/mcp", scenario)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_scenario_is_run_or_left_out_for_a_reason() -> None:
    absent = [name for names in mcp_conformance.ABSENT.values() for name in names]
    assert sorted([*mcp_conformance.SCENARIOS, *absent]) == sorted(mcp_conformance.scenarios())
