"""POST /v1/prewarm: the first turn after it evaluates next to nothing, and nobody waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.fakes import wait_until
from tests.integration.asking import fetch
from tests.integration.generations import GENERATIONS
from tools import made_up_model
from tools.processes import Gateway, ModelServer

CONTEXT = 10240  # tokens of a slot
ANN, BEN = ({"Authorization": f"Bearer sk-{name}"} for name in ("ann", "ben"))
CHAT = "/v1/chat/completions"
SECONDS = 500.0  # for 8 000 tokens on a busy machine, at most
pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module", params=GENERATIONS)
def server(
    request: pytest.FixtureRequest,
    start_server: Callable[..., ModelServer],
    tmp_path_factory: pytest.TempPathFactory,
) -> ModelServer:
    folder = tmp_path_factory.mktemp("model")
    model = made_up_model.write(folder / "long.gguf", n_ctx=CONTEXT)
    return start_server(request.param, slots=3, ctx=3 * CONTEXT, model=model)


@pytest.fixture
def served(
    module_gateway: Callable[..., Gateway],
    server: ModelServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Gateway:
    keys = tmp_path_factory.getbasetemp() / "prewarm-keys"
    keys.write_text("ann sk-ann\nben sk-ben\n", encoding="utf-8")
    return module_gateway("--llama-api", server.url, "--slots", "3", "--api-key-file", str(keys))


def words(topic: str, count: int) -> str:
    return " ".join(f"{topic} {number}" for number in range(count))


def chat(topic: str, count: int) -> dict[str, Any]:
    system = {"role": "system", "content": words(topic, count)}
    question = {"role": "user", "content": "And now?"}
    return {"messages": [system, question], "max_tokens": 1, "temperature": 0}


def evaluated(usage: dict[str, Any]) -> tuple[int, int]:
    """The tokens of the prompt, and those evaluated."""
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return usage["prompt_tokens"], usage["prompt_tokens"] - cached


def running(served: Gateway) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = fetch(served.url, "/v1/requests", headers=ANN)[2]["running"]
    return listed


def test_first_turn_after_it_evaluates_under_one_percent(served: Gateway) -> None:
    body = chat("sail", 1300)
    status, _, report = fetch(served.url, "/v1/prewarm", body, ANN, SECONDS)
    assert status == 200 and report["complete"], report
    assert report["prompt_tokens"] >= 8000 and not report["cached_tokens"]
    prompt, fresh = evaluated(fetch(served.url, CHAT, body, ANN, SECONDS)[2]["usage"])
    assert prompt >= 8000 and fresh <= prompt / 100
    # A warm prompt stays so, and a longer prompt continues it.
    report = fetch(served.url, "/v1/prewarm", body, ANN, SECONDS)[2]
    assert report["complete"] and report["cached_tokens"] >= 0.98 * report["prompt_tokens"]
    body["messages"].append({"role": "user", "content": words("mast", 100)})
    report = fetch(served.url, "/v1/prewarm", body, ANN, SECONDS)[2]
    assert report["complete"] and report["cached_tokens"] >= 0.99 * prompt


def test_it_makes_way_for_others(served: Gateway) -> None:
    """A prompt of seconds is given up at once for another's question."""
    answers = []
    prewarm = threading.Thread(
        target=lambda: answers.append(
            fetch(served.url, "/v1/prewarm", chat("keel", 1000), ANN, SECONDS)
        )
    )
    prewarm.start()
    wait_until(lambda: any(row["backend"] for row in running(served)))
    question = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    assert fetch(served.url, CHAT, question, BEN, SECONDS)[0] == 200
    prewarm.join()
    status, _, report = answers[0]
    assert status == 200 and not report["complete"]


def test_groups_share_nothing(served: Gateway) -> None:
    body = chat("jib", 300)
    assert fetch(served.url, "/v1/prewarm", body, ANN, SECONDS)[2]["complete"]
    prompt, fresh = evaluated(fetch(served.url, CHAT, body, BEN, SECONDS)[2]["usage"])
    assert fresh >= 0.9 * prompt  # but for the beginning of the template
    prompt, fresh = evaluated(fetch(served.url, CHAT, body, ANN, SECONDS)[2]["usage"])
    assert fresh <= 0.05 * prompt


def test_beginning_of_conversations_is_warm_after_a_restart(
    served: Gateway, server: ModelServer
) -> None:
    system = {"role": "system", "content": words("sail", 1250)}

    def body(question: str) -> dict[str, Any]:
        return {"messages": [system, {"role": "user", "content": question}], "max_tokens": 1}

    for question in ("One?", "Two?"):
        assert fetch(served.url, CHAT, body(question), BEN, SECONDS)[0] == 200

    def is_warm() -> bool:
        """Whether another conversation would find it in a slot that is free."""
        report = fetch(served.url, "/v1/explain", body("Three?"), BEN)[2]
        tokens = (report.get("decision") or {}).get("estimated_tokens", CONTEXT)
        free = [place for place in report.get("places", ()) if not place["busy"]]
        return any(place["cached_tokens"] > 0.9 * tokens for place in free)

    wait_until(is_warm)
    server.kill()
    wait_until(lambda: not is_warm())
    server.start()
    wait_until(is_warm, SECONDS)
    prompt, fresh = evaluated(fetch(served.url, CHAT, body("Three?"), BEN, SECONDS)[2]["usage"])
    assert fresh <= 0.1 * prompt
