"""llama.cpp's own server tests pass through slotproxy as they pass directly, but for the ones named
here, where slotproxy does otherwise on purpose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import thorough
from tools import building, upstream_suite
from tools.processes import Gateway, ModelServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

IMAGE = "a request that the model cannot take is the client's fault: 400, not 500"
OTHERWISE = {
    "unit/test_chat_completion.py::test_invalid_chat_completion_req[messages7]": (
        "two assistant messages at the end are continued, as OpenAI takes them too"
    ),
    "unit/test_compat_anthropic.py::test_anthropic_empty_messages": (
        "no messages are a 400, as at Anthropic"
    ),
    "unit/test_compat_anthropic.py::test_anthropic_tool_result_with_image": IMAGE,
    "unit/test_compat_anthropic.py::test_anthropic_vision_format_accepted": IMAGE,
    "unit/test_compat_oai_responses.py::test_responses_stream_with_llama_telemetry": (
        "an answer that was cut ends with response.incomplete, as at OpenAI"
    ),
    "unit/test_security.py::test_cors_options[web.mydomain.fr-Access-Control-Allow-Headers-*]": (
        "headers are named: with credentials, * is no wildcard to a browser"
    ),
    "unit/test_stream.py::test_stream_resume_and_stop_with_slashed_model_name": (
        "a stream ends with its connection and frees the slot; GET /v1/stream is not served"
    ),
}
MOST = 7
TRIES = 2  # some of llama.cpp's tests measure time, or read a state before it has settled
LEAST = 120  # that must pass through slotproxy


def test_llama_cpp_server_tests_pass_through_the_gateway(
    start_server: Callable[..., ModelServer],
    gateway: Callable[..., Gateway],
    tmp_path: Path,
) -> None:
    servers = [
        start_server("llama-2026", extra=upstream_suite.SERVER_FLAGS, **upstream_suite.SERVER_SIZE)
        for _ in range(2)
    ]
    try:
        upstream_suite.folder()
    except building.BuildError as error:
        if thorough.ALL:
            raise
        pytest.skip(str(error))
    through = gateway("--llama-api", servers[1].url, *upstream_suite.GATEWAY_FLAGS)
    lost = []
    try:
        for number in range(TRIES):
            direct, ours = upstream_suite.both(
                servers[0].url, through.url, tmp_path / f"try-{number}"
            )
            lost.append(upstream_suite.lost(direct, ours))
            if lost[-1] == OTHERWISE.keys():
                break
    finally:
        for server in servers:
            server.kill()
    assert set.intersection(*lost) == OTHERWISE.keys()
    assert len(OTHERWISE) <= MOST
    assert sum(how == "passed" for how in ours.values()) >= LEAST
