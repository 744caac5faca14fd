"""The gateway in front of a server with the peculiarities of PowerInfer's (`powerinfer_server`).

With POWERINFER_SERVER, the integration tests also run on the real one.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from proxy.backends.llamacpp import LlamaCpp
from proxy.backends.pools import Backend
from proxy.config import Settings
from tests.apps import app_on
from tests.fakes import at_once, services_of, wait_until
from tests.powerinfer_server import VOCABULARY, WORDS, PowerInferServer


class House:
    def __init__(self, server: PowerInferServer) -> None:
        self.server = server
        backend = Backend("power", server.url, LlamaCpp(server.url, timeout=30))
        app = app_on([backend], Settings(wait_for_backend=0.0, local_embeddings=False))
        self.backend = backend
        registry = services_of(app).gateway.registry
        wait_until(lambda: registry.settled)
        self.scheduler = services_of(app).gateway.scheduler
        self.http: FlaskClient = app.test_client()

    def post(self, path: str = "/v1/completions", **body: Any) -> Any:
        return self.http.post(path, json=body)


@pytest.fixture
def start() -> Iterator[Callable[..., House]]:
    made: list[PowerInferServer] = []

    def start(**how: Any) -> House:
        made.append(PowerInferServer(**how))
        return House(made[-1])

    yield start
    for server in made:
        server.close()


@pytest.fixture
def house(start: Callable[..., House]) -> House:
    return start()


def text(n: int) -> str:
    return "".join(WORDS[i % len(WORDS)] for i in range(n))


def test_it_is_recognized_and_its_slots_are_counted(start: Callable[..., House]) -> None:
    house = start(slots=3, n_ctx=1024)
    caps = house.backend.caps
    assert caps is not None
    assert (caps.dialect, caps.models, caps.n_ctx) == ("powerinfer", ("tiny",), 1024)
    wait_until(lambda: house.scheduler.slots("power") == 3)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_has_as_many_tokens_as_were_asked_for(house: House, stream: bool) -> None:
    for n in (1, 3, 7):
        answer = house.post(prompt="Hi", max_tokens=n, stream=stream)
        assert answer.status_code == 200
        lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
        parts = map(json.loads, lines) if stream else [answer.json]
        assert "".join(part["choices"][0]["text"] for part in parts if part["choices"]) == text(n)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"prompt": [72, VOCABULARY]}, "prompt"),
        ({"temperature": "hot"}, "temperature"),
        ({"stop": [5]}, "stop"),
        ({"logit_bias": {"72": "much"}}, "logit_bias"),
        *(
            ({"grammar": grammar}, "grammar")
            for grammar in ("root ::= (", "root ::= root", 'x ::= "a"', "root ::= x")
        ),
        ({"xtc_probability": 0.5}, "xtc_probability"),
        ({"dry_multiplier": 0.8}, "dry_multiplier"),
        ({"top_n_sigma": 1}, "top_n_sigma"),
        ({"suffix": "b"}, "suffix"),
    ],
)
def test_what_would_end_it_or_it_would_ignore_is_refused_by_name(
    house: House, fields: dict[str, Any], name: str
) -> None:
    answer = house.post(max_tokens=3, **{"prompt": "Hi", **fields})
    assert (answer.status_code, answer.json["error"]["param"]) == (400, name)
    assert house.server.died == ""
    assert house.post(prompt="Hi", max_tokens=3).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_busy_one_is_waited_for(house: House, stream: bool) -> None:
    """Its 404, and its 200 with nothing, are no answers."""
    house.server.hold()

    def let_go() -> None:
        wait_until(lambda: house.server.refused > 0)
        house.server.let_go()

    freeing = threading.Thread(target=let_go)
    freeing.start()
    answer = house.post(prompt="Hi", max_tokens=2, stream=stream)
    freeing.join()
    assert answer.status_code == 200
    assert text(2).split()[0] in answer.text


def test_a_long_text_is_tokenized_in_pieces(house: House) -> None:
    began = time.monotonic()
    answer = house.post(prompt="a b " * 25_000, max_tokens=3)
    assert (answer.status_code, answer.json["error"]["code"]) == (400, "context_length_exceeded")
    assert house.server.longest < 20_000
    assert time.monotonic() - began < 20, "as a whole, it would take 140 s"
    assert all(body["prompt"] in ("", "Hi") for body in house.server.bodies), "it was not cut"


def test_probabilities_are_those_of_each_token_once(house: House) -> None:
    for stream in (False, True):
        answer = house.post(prompt="Hi", max_tokens=5, logprobs=2, stream=stream)
        assert answer.status_code == 200
        if stream:
            lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
            choices = [item for line in lines for item in json.loads(line)["choices"]]
        else:
            choices = answer.json["choices"]
        tokens = [t for item in choices if item["logprobs"] for t in item["logprobs"]["tokens"]]
        assert tokens == list(WORDS)


def test_no_answer_is_without_a_limit_and_a_client_that_leaves_frees_its_slot(
    start: Callable[..., House],
) -> None:
    house = start(slots=1, pace=0.01)
    answer = house.post(prompt="Hi", stream=True)
    body = iter(answer.response)
    next(body)
    answer.close()
    assert house.post(prompt="Hi", max_tokens=2).json["choices"][0]["text"] == text(2)
    assert all(0 < body["n_predict"] < house.server.n_ctx for body in house.server.bodies)


def test_twelve_at_once_get_their_own_answers(start: Callable[..., House]) -> None:
    """On two slots, over connections that it closes after five requests."""
    house = start(slots=2, pace=0.002)

    def ask(number: int) -> Any:
        with house.http.application.test_client() as client:
            body = {"prompt": f"number {number + 4}", "max_tokens": number + 4}
            return client.post("/v1/completions", json=body).json

    for n, answer in enumerate(at_once(ask, 12), start=4):
        assert answer["choices"][0]["text"] == text(n)
        assert answer["usage"]["completion_tokens"] == n
