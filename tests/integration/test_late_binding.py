"""Recorded conversations of Home Assistant on real servers: with late binding, their devices stay
in the prompt cache, though the clock and the room change with each of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from proxy.app import doctor
from proxy.config import load
from tests.fakes import key_file
from tests.home_assistant import CHANGING, recorded
from tests.integration.conftest import GENERATIONS, StartServer
from tools import made_up_model
from tools.processes import Gateway, ModelServer

from .asking import ended, fetch

LATE, TODAY = ({"Authorization": f"Bearer sk-{name}-0123456789"} for name in ("late", "today"))
RULES = ",".join(rule.replace(" ", "*") for rule in CHANGING)
ADMINS = ("--admins", "late")
KEYS = f"late sk-late-0123456789 late_binding={RULES}\ntoday sk-today-0123456789\n"


class Turn(NamedTuple):
    """A request: its tokens, why they were evaluated, and the lines that its server got."""

    prompt: int
    evaluated: int
    cause: str
    lines: Counter[str]


@pytest.fixture(scope="module", params=GENERATIONS)
def server(
    request: pytest.FixtureRequest,
    start_server: StartServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> ModelServer:
    model = tmp_path_factory.mktemp("model") / "long.gguf"
    made_up_model.write(model, n_ctx=16384)
    return start_server(request.param, slots=1, ctx=16384, model=model)


@pytest.fixture
def url(
    server: ModelServer, gateway: Callable[..., Gateway], tmp_path_factory: pytest.TempPathFactory
) -> str:
    keys = key_file(tmp_path_factory.mktemp("keys"), KEYS)
    flags = ("--chat-template", "chatml", "--capture", "all", "--api-key-file", keys, *ADMINS)
    return gateway("--llama-api", server.url, *flags).url


def turn(url: str, body: dict[str, Any], key: dict[str, str]) -> Turn:
    body = {**body, "max_tokens": 4}
    status, headers, answer = fetch(url, "/v1/chat/completions", body, key, seconds=300)
    assert status == 200, answer
    assert ("late_binding: moved" in headers.get("x-slotproxy-warning", "")) == (key is LATE)
    name = headers["x-request-id"]
    seen = ended(url, name, key)
    calls = fetch(url, f"/v1/requests/{name}/capture", None, key)[2]["calls"]
    *refused, call = calls  # an old server may still hold its only slot
    assert all("slot unavailable" in busy["received"]["text"] for busy in refused)
    prompt = json.loads(call["sent"]["text"])["prompt"].replace("<|im_end|>", "")
    return Turn(
        seen["prompt_tokens"],
        seen["evaluated_tokens"],
        seen["decision"]["reason"]["cause"],
        Counter(filter(None, prompt.split("\n"))),
    )


def test_server_gets_the_same_lines_and_keeps_the_devices(url: str) -> None:
    conversations = [bodies[0] for bodies in recorded(3, devices=40)]
    late = [turn(url, body, LATE) for body in conversations]
    for request in late[1:]:
        assert request.cause == "warm" and request.evaluated <= request.prompt / 10
    for number in (0, 1):
        today = turn(url, conversations[number], TODAY)
        assert late[number].lines - today.lines == Counter(["Now:", "<|im_start|>system"])
        assert today.lines - late[number].lines == Counter()
    assert today.cause == "head" and today.evaluated >= today.prompt * 0.9


def test_doctor_names_the_key_whose_prompts_begin_with_a_clock(
    url: str, server: ModelServer, tmp_path: Path
) -> None:
    for bodies in recorded(5, devices=10):
        turn(url, bodies[0], TODAY)
    flags = ("--llama-api", server.url, "--port", url.rsplit(":", 1)[1], *ADMINS)
    settings = load((*flags, "--api-key-file", key_file(tmp_path, KEYS)), {})
    (finding,) = (finding for finding in doctor.examine(settings) if finding.about == "prompts")
    assert finding.level == "advice" and "of the key today" in finding.text
    assert "message 1" in finding.text and "late_binding" in finding.remedy


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_home_of_200_devices_evaluates_a_tenth(url: str) -> None:
    """Three satellites, each minute another one. Today's tokens are those of one minute, scaled:
    all are alike."""
    minutes = 24
    late = sum(turn(url, body, LATE).evaluated for bodies in recorded(minutes) for body in bodies)
    today = minutes * sum(turn(url, body, TODAY).evaluated for body in next(recorded(1)))
    print(f"{late} of {today} tokens evaluated")
    assert late <= today / 10
