"""The gateway answers as /openapi.json says: schemathesis sends requests made from it, valid and
not, and checks every answer. `make test-openapi` installs it and runs this."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import servers
from tools.processes import ModelServer

from .conftest import StartGateway

PROGRAM = servers.ROOT / "build" / "openapi-venv" / "bin" / "st"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not PROGRAM.is_file(), reason="make test-openapi runs it"),
]
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance"
)
SECONDS = 300  # for all routes
FLAGS = f"""--checks {CHECKS} --phases examples,coverage,fuzzing --max-examples 4
    --max-time {SECONDS} --seed 1 --request-timeout 60 --workers 2 --suppress-health-check all
    --continue-on-failure --no-color"""


def test_every_answer_is_documented(
    start_server: Callable[..., ModelServer],
    gateway: StartGateway,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    server = start_server("llama-2023", slots=4, ctx=8192, model=tiny_model)
    template = str(servers.ROOT / "models" / "tinychat.jinja")
    running = gateway(
        "--llama-api", server.url, "--chat-template", template, "--data", str(tmp_path / "data"),
        "--tools", "calculator", "--tools", "time",
    )  # fmt: skip
    done = subprocess.run(
        [PROGRAM, "run", f"{running.url}/openapi.json", *FLAGS.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    # A request that takes longer than a minute is counted as an error, not as a failure.
    assert "Test cases:" in done.stdout, done.stdout + done.stderr
    assert "FAILURES" not in done.stdout, done.stdout
