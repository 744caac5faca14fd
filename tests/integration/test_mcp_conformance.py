"""The public conformance suite of the Model Context Protocol, against /mcp."""

from __future__ import annotations

import pytest

from tests import thorough
from tools import mcp_conformance
from tools.processes import Gateway, ModelServer

from .conftest import StartGateway

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (thorough.ALL and mcp_conformance.find()),
        reason="make test-all runs it, if npm is installed (tools.mcp_conformance)",
    ),
]


@pytest.mark.parametrize("scenario", mcp_conformance.SCENARIOS)
def test_server_conforms(
    scenario: str, old_server: ModelServer, module_gateway: StartGateway
) -> None:
    served: Gateway = module_gateway("--llama-api", old_server.url, "--tools", "calculator")
    done = mcp_conformance.run(served.url + "/mcp", scenario)
    assert done.returncode == 0, done.stdout + done.stderr
