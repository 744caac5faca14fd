"""LoRA adapters of a llama-server: their names, and that no cache of one serves another.

Answers are compared with those of the same server without any cache. What is cached is evaluated in
batches of other sizes, which rounds differently, so an answer is only compared if each of its
tokens is clearly the likeliest.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec import Struct

from tools import made_up_lora
from tools.processes import Gateway, ModelServer

pytestmark = pytest.mark.slow

ANSWERS = int(os.environ.get("ADAPTER_ANSWERS", "300"))  # 1 000 take half a minute
TALKS, TURNS = 4, 3  # conversations of each set of adapters, and their turns
TOKENS = 3  # of an answer
CLEAR = 0.25  # between the logarithms of the two highest probabilities of a token
SETS: dict[str, list[dict[str, Any]]] = {
    "": [],
    ":poet": [{"id": 0, "scale": 1.0}],
    ":pirate": [{"id": 1, "scale": 1.0}],
}


@pytest.fixture(scope="module")
def files(made_up_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The flags of a llama-server with two adapters."""
    folder = tmp_path_factory.mktemp("adapters")
    flags: list[str] = ["--lora-init-without-apply"]
    for seed, name in enumerate(("poet", "pirate")):
        flags += ["--lora", str(made_up_lora.write(made_up_model, folder / f"{name}.gguf", seed))]
    return tuple(flags)


class House(Struct):
    server: ModelServer
    gateway: Gateway
    base: str  # the model's name
    client: httpx.Client

    def cold(self, name: str, prompt: str) -> tuple[str, bool]:
        """The server's own answer without a cache, and whether each of its tokens is clear."""
        body: dict[str, Any] = {"prompt": prompt, "n_predict": TOKENS, "temperature": 0}
        body |= {"cache_prompt": False, "n_probs": 2, "lora": SETS[name] or SILENT}
        answer = self.client.post(f"{self.server.url}/completion", json=body).json()
        likeliest = [token["top_logprobs"] for token in answer["completion_probabilities"]]
        gaps = [first["logprob"] - second["logprob"] for first, second in likeliest]
        return answer["content"], min(gaps) > CLEAR

    def ask(self, name: str, prompt: str) -> tuple[str, int]:
        """The gateway's answer, and how many tokens of the prompt were cached."""
        body = {"model": self.base + name, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
        answer = self.client.post(f"{self.gateway.url}/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        usage = answer.json()["usage"]
        return answer.json()["choices"][0]["text"], usage["prompt_tokens_details"]["cached_tokens"]


SILENT = [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 0.0}]


def house_of(server: ModelServer, gateway: Gateway) -> House:
    client = httpx.Client(timeout=60.0)
    base = client.get(f"{gateway.url}/v1/models").json()["data"][0]["id"]
    return House(server, gateway, base, client)


@pytest.fixture
def house(
    start_server: Callable[..., ModelServer],
    module_gateway: Callable[..., Gateway],
    files: tuple[str, ...],
    request: pytest.FixtureRequest,
) -> Iterator[House]:
    """A gateway before a server with two slots; the parameter is the flags of the server."""
    server = start_server("llama-2026", slots=2, ctx=8192, extra=(*files, *request.param))
    built = house_of(server, module_gateway("--llama-api", server.url))
    yield built
    built.client.close()


def prompts() -> list[list[str]]:
    """The turns of conversations that all begin alike."""
    draw = random.Random(7)

    def text(words: int) -> str:
        return " ".join(
            draw.choice("the world of water and people by day".split()) for _ in range(words)
        )

    begin = text(120)
    talks = []
    for _ in range(TALKS):
        said = begin
        talks.append([said := f"{said} {text(60)}" for _ in range(TURNS)])
    return talks


def interleaved(house: House, count: int) -> tuple[int, dict[str, int]]:
    """Ask so many questions of all conversations and adapters in turn, two at a time. Each answer
    must be that of a cold slot. Returns how many were compared, and the cached tokens of each."""
    talks = prompts()
    cold = {
        (name, place, turn): house.cold(name, prompt)
        for name in SETS
        for place, talk in enumerate(talks)
        for turn, prompt in enumerate(talk)
    }
    by_name = [[text for turn, (text, _) in cold.items() if turn[0] == name] for name in SETS]
    assert by_name[0] != by_name[1] != by_name[2] != by_name[0]  # the adapters do something
    draw = random.Random(11)
    turns: list[tuple[str, int, int]] = []
    while len(turns) < count:
        name, talk = draw.choice([*SETS]), draw.randrange(TALKS)
        turns += [(name, talk, turn) for turn in range(draw.randint(1, TURNS))]
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda turn: house.ask(turn[0], talks[turn[1]][turn[2]]), turns))
    cached = dict.fromkeys(SETS, 0)
    wrong = []
    compared = 0
    for turn, (text, tokens) in zip(turns, answers, strict=True):
        cached[turn[0]] += tokens
        expected, clear = cold[turn]
        compared += clear
        if clear and text != expected:
            wrong.append((turn, text, expected, tokens))
    assert not wrong, f"{len(wrong)} of {compared}: {wrong[:3]}"
    return compared, cached


@pytest.mark.parametrize("house", [("--cache-ram", "0")], indirect=True)
def test_answers_are_those_of_a_cold_slot_whatever_other_adapters_did(house: House) -> None:
    compared, cached = interleaved(house, ANSWERS)
    assert compared > ANSWERS / 10
    assert min(cached.values()) > 0, cached


@pytest.mark.parametrize("house", [()], indirect=True)
def test_a_server_that_mixes_adapters_in_its_ram_evaluates_each_prompt(house: House) -> None:
    compared, cached = interleaved(house, 60)
    assert compared > 6 and not any(cached.values()), cached
    body = {"model": f"{house.base}:poet", "prompt": "a", "max_tokens": 1}
    answer = house.client.post(f"{house.gateway.url}/v1/completions", json=body)
    assert "--cache-ram 0" in answer.headers["x-slotproxy-warning"]


@pytest.mark.parametrize("house", [("--cache-ram", "0")], indirect=True)
def test_adapters_are_models_and_a_field(house: House) -> None:
    url, client = house.gateway.url, house.client
    names = [house.base + name for name in SETS]
    assert [model["id"] for model in client.get(f"{url}/v1/models").json()["data"]] == names
    tags = client.get(f"{url}/api/tags").json()["models"]
    assert [tag["name"].removesuffix(":latest") for tag in tags] == names
    assert client.get(f"{url}/v1/models/{names[1]}").json()["id"] == names[1]

    question = {"prompt": prompts()[0][0], "max_tokens": 1, "temperature": 0}

    def probabilities(model: str, **more: Any) -> Any:
        body = {"model": model, **question, **more, "logprobs": 2}
        answer = client.post(f"{url}/v1/completions", json=body).json()
        assert answer["model"] == model
        return pytest.approx(answer["choices"][0]["logprobs"]["token_logprobs"], abs=0.01)

    base, poet, pirate = map(probabilities, names)
    assert poet == probabilities(names[0], lora=SETS[":poet"]) != base
    assert pirate == probabilities(names[1], lora=SETS[":pirate"])  # the field counts
    assert base == probabilities(names[2], lora=SILENT)

    body = {**question, "model": names[0], "lora": [{"id": 7, "scale": 1}]}
    refused = client.post(f"{url}/v1/completions", json=body)
    assert refused.status_code == 400 and "0 (poet), 1 (pirate)" in refused.text
