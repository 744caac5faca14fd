"""The public compliance suite of Open Responses passes on every kind of backend.

What a model says is random, and a test of the suite fails if an answer does not end by itself, or
if the model does not call the tool it should: so the servers' models are forced by a grammar.
chatglm_cpp has none. There, a test has passed if one of several runs passed; what is wrong in the
form of an answer is wrong in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests import thorough
from tests.forced_server import ForcedServer
from tools import made_up_mmproj, open_responses, servers
from tools.processes import Gateway

from .generations import GENERATIONS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (thorough.ALL and open_responses.find()),
        reason="make test-all runs it, if npm and the suite are there (tools.open_responses)",
    ),
]
TEMPLATE = ("--chat-template", str(servers.ROOT / "models" / "tinychat.jinja"))
CALL = """<tool_call>
{"name": "get_weather", "arguments": {"location": "San Francisco"}}
</tool_call>"""
TESTS = 17
IMAGE = "image-input"
RUNS = 10  # on chatglm_cpp
BY_CHANCE = {"chatglm_cpp": {"tool-calling"}}  # as its model calls


def script(prompt: str) -> str:
    return CALL if "get_weather" in prompt else "Hello there, friend."


@pytest.fixture(scope="module", params=[*GENERATIONS, "chatglm_cpp"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def address(
    kind: str,
    request: pytest.FixtureRequest,
    module_gateway: Callable[..., Gateway],
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Path,
) -> Iterator[str]:
    data = ("--data", str(tmp_path_factory.mktemp("data")))
    if kind == "chatglm_cpp":
        pytest.importorskip("chatglm_cpp", reason="not installed: python -m tools.chatglm install")
        model = servers.ROOT / "models" / "tinychat-chatglm3.bin"
        yield module_gateway("--chatglm-model", str(model), *data).url
        return
    sees = ("--mmproj", str(made_up_mmproj.cached(tiny_model)))
    start = request.getfixturevalue("start_server")
    extra = sees if kind == "llama-2026" else ()
    server = start(kind, ctx=8192, model=tiny_model, extra=extra)
    forced = ForcedServer(server.url, script)
    try:
        yield module_gateway("--llama-api", forced.url, *TEMPLATE, *data).url
    finally:
        forced.close()


@pytest.fixture(scope="module")
def faults(kind: str, address: str) -> dict[str, list[str]]:
    """The faults of each test of the suite."""
    faults = dict(open_responses.run(address, "any"))
    assert len(faults) == TESTS
    for _ in range(RUNS - 1 if kind == "chatglm_cpp" else 0):
        if not any(faults[name] for name in expected(kind, faults)):
            break
        again = open_responses.run(address, "any")
        faults = {name: texts and again[name] for name, texts in faults.items()}
    return faults


def expected(kind: str, names: Iterable[str]) -> set[str]:
    """The tests that need no image and no luck."""
    return set(names) - BY_CHANCE.get(kind, set()) - {IMAGE}


def test_open_responses_suite_passes(kind: str, faults: dict[str, list[str]]) -> None:
    assert {name: faults[name] for name in expected(kind, faults) if faults[name]} == {}


def test_open_responses_suite_sends_an_image(kind: str, faults: dict[str, list[str]]) -> None:
    if kind != "llama-2026":
        assert any("HTTP 400" in fault for fault in faults[IMAGE])
        pytest.skip("the server takes no images")
    assert faults[IMAGE] == []
