"""Slots of real servers that do not report them: counted, all used, prompts kept."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from proxy.backends.llamacpp import LlamaCpp
from tests.fakes import wait_until
from tests.integration.conftest import StartGateway, StartServer
from tests.integration.generations import OLD
from tools import made_up_model
from tools.processes import ModelServer, ask

WORDS = [" ".join(f"word {n} and {i}" for i in range(4 + 9 * n)) for n in range(4)]


def completed(server: ModelServer, **fields: Any) -> Any:
    body = {"n_predict": 8, "temperature": 0, "cache_prompt": True, **fields}
    status, data = ask(f"{server.url}/completion", body, 60)
    assert status == 200, data
    return json.loads(data)


def is_idle(log: str) -> bool:
    return log.count(" is processing [") == log.count(" released (")


@pytest.mark.parametrize("name", OLD)
@pytest.mark.parametrize("slots", [1, 2, 5])
def test_counting_finds_every_slot_and_keeps_cached_prompts(
    name: str, slots: int, start_server: StartServer
) -> None:
    server = start_server(name, slots=slots, ctx=512 * slots)
    driver = LlamaCpp(server.url, timeout=10)
    try:
        texts = [
            WORDS[3] + str(n) + completed(server, prompt=WORDS[3] + str(n), slot_id=n)["content"]
            for n in range(slots)
        ]
        assert [driver.count_slots() for _ in range(3)] == [slots] * 3
        # It notices late that the streams which counted are closed; a busy slot is passed over.
        wait_until(lambda: is_idle(server.log))
        for number, text in enumerate(texts):
            answer = completed(server, prompt=text + " and more", slot_id=number)
            assert answer["slot_id"] == number
            assert answer["timings"]["prompt_n"] < 20 < answer["tokens_evaluated"]
    finally:
        driver.close()
        server.kill()


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_powerinfer_with_four_slots_gives_four_users_their_own_answers(
    kind: str, start_server: StartServer, gateway: StartGateway
) -> None:
    """Also with a model in PowerInfer's own form, where each layer predicts its active neurons."""
    model = made_up_model.cached(sparse=kind == "sparse")
    server = start_server("powerinfer", slots=4, ctx=4096, model=model)
    running = gateway("--llama-api", server.url)
    (backend,) = requests.get(running.url + "/v1/backends", timeout=60).json()["data"]
    assert (backend["slots"], backend["found"]["slots"]) == (4, 4)
    assert backend["found"]["dialect"] == "powerinfer"

    def answer(prompt: str) -> tuple[str, float]:
        # These servers penalise a prompt's tokens only where it may come from the cache.
        body = {"prompt": prompt, "max_tokens": 64, "temperature": 0, "repeat_penalty": 1.0}
        reply = requests.post(running.url + "/v1/completions", json=body, timeout=60)
        assert reply.status_code == 200, reply.text
        waited = float(reply.headers.get("x-slotproxy-queue-ms", 0))
        return reply.json()["choices"][0]["text"], waited

    alone = [answer(prompt)[0] for prompt in WORDS]
    assert len({text[:12] for text in alone}) == 4
    alike = 0
    waits: list[float] = []  # the longest one of each round, in parts of the round
    for _ in range(3):
        began = time.monotonic()
        with ThreadPoolExecutor(4) as threads:
            together = list(threads.map(answer, WORDS))
        elapsed = 1000 * (time.monotonic() - began)
        # The first words: further on, other texts in its batches may change one by rounding.
        alike += sum(text[:12] == own[:12] for (text, _), own in zip(together, alone, strict=True))
        waits.append(max(waited for _, waited in together) / elapsed)
    assert alike >= 3 * 4 - 1
    # A slot may settle for some milliseconds. With one less, each round waits for a whole answer.
    assert min(waits) < 0.3
    server.kill()
