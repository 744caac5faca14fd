"""LoRA adapters of a llama-server: their names, and that no cache of one serves another.

Answers are compared with those of the same server without any cache. What is cached is evaluated in
batches of other sizes, which rounds differently, so prompts are chosen for which each token of each
answer is clearly the likeliest: on this machine, whatever its processor.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec import Struct

from tests import thorough
from tests.fakes import wait_until
from tools import made_up_lora, servers
from tools.processes import Gateway, ModelServer

pytestmark = pytest.mark.slow

ANSWERS = 1000
TALKS, TURNS = 4, 3  # conversations of each set of adapters, and their turns
TOKENS = 2  # of an answer
CLEAR = 0.25  # between the logarithms of the two highest probabilities; rounding makes 0.02
TRIES = 200  # texts of a turn
SETS: dict[str, list[dict[str, Any]]] = {
    "": [],
    ":poet": [{"id": 0, "scale": 1.0}],
    ":pirate": [{"id": 1, "scale": 1.0}],
}


@pytest.fixture(scope="module")
def files(made_up_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The flags of a llama-server with two adapters."""
    folder = tmp_path_factory.mktemp("adapters")
    flags: list[str] = []
    for seed, name in enumerate(("poet", "pirate")):
        file = made_up_lora.write(made_up_model, folder / f"{name}.gguf", seed)
        flags += ["--lora-scaled", f"{file}:0"]
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


Talks = list[list[tuple[str, dict[str, str]]]]  # the prompt of each turn, and its cold answers


def text(draw: random.Random, words: int) -> str:
    return " ".join(draw.choices("the world of water and people by day".split(), k=words))


def conversations(house: House) -> Talks:
    """Conversations that all begin alike."""
    draw = random.Random(7)
    begin = text(draw, 120)
    talks: Talks = []
    for _ in range(TALKS):
        said = begin
        talks.append([])
        for _ in range(TURNS):
            said, cold = clear_turn(house, said, draw)
            talks[-1].append((said, cold))
    return talks


def clear_turn(house: House, said: str, draw: random.Random) -> tuple[str, dict[str, str]]:
    """A prompt that continues the conversation, and its answers by the name of their adapters."""
    for _ in range(TRIES):
        prompt, cold = f"{said} {text(draw, 60)}", {}
        for name in SETS:
            answer, is_clear = house.cold(name, prompt)
            if not is_clear:
                break
            cold[name] = answer
        else:
            if len({*cold.values()}) == len(SETS):  # the adapters change it
                return prompt, cold
    raise AssertionError("the model has no clear answers")


def interleaved(house: House, count: int) -> dict[str, int]:
    """Ask so many questions of all conversations and adapters in turn, two at a time. Each answer
    must be that of a cold slot. Returns the cached tokens of each set of adapters."""
    talks = conversations(house)
    draw = random.Random(11)
    turns: list[tuple[str, str, str]] = []
    while len(turns) < count:
        name, talk = draw.choice([*SETS]), draw.choice(talks)
        turns += [(name, prompt, cold[name]) for prompt, cold in talk[: draw.randint(1, TURNS)]]
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda turn: house.ask(turn[0], turn[1]), turns))
    cached = dict.fromkeys(SETS, 0)
    wrong = []
    for (name, _, expected), (answer, tokens) in zip(turns, answers, strict=True):
        cached[name] += tokens
        if answer != expected:
            wrong.append((name, expected, answer, tokens))
    assert not wrong, f"{len(wrong)} of {len(turns)}: {wrong[:3]}"
    return cached


@pytest.mark.timeout(600)
@pytest.mark.parametrize("house", [("--cache-ram", "0")], indirect=True)
def test_answers_are_those_of_a_cold_slot_whatever_other_adapters_did(house: House) -> None:
    cached = interleaved(house, ANSWERS)
    assert min(cached.values()) > 0, cached


@pytest.mark.timeout(600)
@pytest.mark.parametrize("house", [()], indirect=True)
def test_a_server_that_mixes_adapters_in_its_ram_evaluates_each_prompt(house: House) -> None:
    cached = interleaved(house, 60)
    assert not any(cached.values()), cached
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

    prompt, cold = clear_turn(house, "", random.Random(3))
    question = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0}

    def answer(model: str, **more: Any) -> Any:
        reply = client.post(
            f"{url}/v1/completions", json={"model": model, **question, **more}
        ).json()
        assert reply["model"] == model
        return reply["choices"][0]["text"]

    assert {name: answer(house.base + name) for name in SETS} == cold
    assert answer(names[0], lora=SETS[":poet"]) == cold[":poet"]
    assert answer(names[1], lora=SETS[":pirate"]) == cold[":pirate"]  # the field counts
    assert answer(names[2], lora=SILENT) == cold[""]

    body = {**question, "model": names[0], "lora": [{"id": 7, "scale": 1}]}
    refused = client.post(f"{url}/v1/completions", json=body)
    assert refused.status_code == 400 and "0 (poet), 1 (pirate)" in refused.text


def test_adapters_of_a_model_that_is_not_loaded_have_names(
    serve: Callable[..., Gateway], made_up_model: Path, files: tuple[str, ...], tmp_path: Path
) -> None:
    """Its first request loads it, and the caches of its base model survive its end."""
    binary = servers.find("llama-2026")
    if binary is None or thorough.FEW:
        pytest.skip("llama-2026 is not built, or make test-all runs it")
    words = " ".join((str(binary), "-m", str(made_up_model), *files))
    command = f"{words} -np 2 -c 8192 -t 1 --host 127.0.0.1 --port ${{PORT}}"
    table = f'[[model]]\nname = "m"\ncommand = "{command}"\nsave_slots = true\n'
    gateway = serve(
        f'{table}aliases = ["bard"]\nlist_aliases = true\n'
        "set_by_alias = { bard = { lora = [{ id = 0, scale = 0.5 }] } }\n",
        *("--data", str(tmp_path / "data")),
    )
    with httpx.Client(base_url=gateway.url, timeout=60.0) as client:
        listed = [model["id"] for model in client.get("/v1/models").json()["data"]]
        assert listed == ["m", "bard", "m:poet", "m:pirate"]
        prompt, answers = text(random.Random(5), 300), []
        for _ in range(2):  # the second time, by another process
            for name in ("m:poet", "bard", "m"):
                body = {"model": name, "prompt": prompt, "max_tokens": 1}
                answer = client.post("/v1/completions", json={**body, "temperature": 0}).json()
                details = answer["usage"]["prompt_tokens_details"]
                answers.append((answer["model"], details["cached_tokens"] > 0))
            client.post("/models/unload", json={"model": "m"}).raise_for_status()
            wait_until(lambda: ": saved " in gateway.log)
    assert answers[:3] == [("m:poet", False), ("bard", False), ("m", False)]
    assert answers[3:] == [("m:poet", False), ("bard", False), ("m", True)]
