"""The schema of each keyword on real servers: what they sample under its grammar, judged by our
matcher and by `jsonschema`.

The weights are made up, so the tokens are random among those that the server's own sampler allows.
Each schema is sampled several times, with closing marks ever likelier: without that, hardly any
string would end.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import pytest
import requests
from jsonschema import Draft4Validator, Draft7Validator, Draft202012Validator, FormatChecker
from msgspec import Struct

from proxy.gbnf import NEW, GrammarLimits, UnsupportedSchema, check, schema_to_grammar
from proxy.gbnf.check import DONE, states_after
from tests.integration.conftest import StartServer
from tests.integration.generations import GENERATIONS
from tests.integration.test_grammar_real import limits_of
from tests.unit.gbnf.test_schema import CASES
from tools.processes import ModelServer

pytestmark = pytest.mark.slow

SCHEMAS: list[Any] = [case[0] for case in CASES]
AT_ONCE = 4
SLOTS = 2 * AT_ONCE  # an old server frees a slot some time after its answer
TOKENS = 48
BIASES = (0, 5, 8, 12)  # of the marks that close a string, an object or a list


class Sampled(Struct, frozen=True):
    """A text that a server sampled for a schema; `ended`: the server says that it is whole."""

    schema: Any
    grammar: str
    text: str
    ended: bool


@pytest.fixture(scope="module", params=GENERATIONS)
def server(request: pytest.FixtureRequest, start_server: StartServer) -> ModelServer:
    return start_server(request.param, slots=SLOTS, ctx=256 * SLOTS)


def grammars(limits: GrammarLimits) -> Iterator[tuple[Any, str]]:
    """Each schema with its grammar, and with its open one where the server has room for it."""
    for schema in SCHEMAS:
        closed = schema_to_grammar(schema, limits)
        yield schema, closed
        if limits is NEW:
            try:
                whole = schema_to_grammar(schema, limits, closed=False)
            except UnsupportedSchema:
                continue
            if whole != closed:
                yield schema, whole


def sampled(server: ModelServer, of: Iterable[tuple[Any, str]]) -> list[Sampled]:
    marks = [token_of(server, mark) for mark in '"}]']

    def sample(schema: Any, grammar: str, bias: int) -> Sampled:
        body = {
            "prompt": "Once",
            "n_predict": TOKENS,
            "grammar": grammar,
            "temperature": 1.0,
            "top_k": 0,
            "top_p": 1.0,
            "seed": bias,
            "logit_bias": [[mark, bias] for mark in marks],
        }
        answer = answer_of(server, body)
        ended = answer.get("stopped_eos", False) or answer.get("stop_type") == "eos"
        return Sampled(schema, grammar, answer["content"], ended)

    jobs = [(*pair, bias) for pair in of for bias in BIASES]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(sample, *zip(*jobs, strict=True)))


def token_of(server: ModelServer, text: str) -> int:
    reply = requests.post(f"{server.url}/tokenize", json={"content": text}, timeout=60)
    token: int = reply.json()["tokens"][-1]
    return token


def answer_of(server: ModelServer, body: dict[str, Any]) -> Any:
    end = time.monotonic() + 60
    while True:
        reply = requests.post(f"{server.url}/completion", json=body, timeout=60)
        if reply.status_code != 404 or time.monotonic() > end:  # 404: no slot is free yet
            reply.raise_for_status()
            return reply.json()


read = cache(check)


def fault(of: Sampled, limits: GrammarLimits) -> str:
    """The fault of a text; "" if it has none."""
    states = states_after(read(of.grammar, limits), of.text)
    if not states:
        return "no text of the grammar begins like this"
    if of.ended and DONE not in states:
        return "the server ended it too early"
    if DONE in states and not is_valid(of.schema, json.loads(of.text)):
        return "jsonschema finds it invalid"
    return ""


def is_valid(schema: Any, value: Any) -> bool:
    """By `jsonschema`, in the draft that has the schema's words."""
    words = json.dumps(schema)
    if value is None and '"nullable": true' in words and "enum" not in words:
        return True  # of OpenAPI 3.0
    judge: Any = Draft202012Validator
    if '"dependencies"' in words or '"items": [' in words:
        judge = Draft7Validator
    elif '"exclusiveMinimum": true' in words:
        judge = Draft4Validator
    elif '"id": "#two"' in words:
        schema = {"enum": [1, 2]}  # each draft knows one of its two kinds of anchors
    valid: bool = judge(schema, format_checker=FormatChecker(["date", "ipv4"])).is_valid(value)
    return valid


def test_texts_that_a_server_samples_satisfy_the_schema(server: ModelServer) -> None:
    limits = limits_of(server)
    samples = sampled(server, grammars(limits))
    faults = [(fault(sample, limits), sample.schema, sample.text) for sample in samples]
    assert [row for row in faults if row[0]] == []
    whole = {json.dumps(sample.schema) for sample in samples if sample.ended}
    assert len(whole) >= 0.85 * len(SCHEMAS), "too few texts are whole to judge by"
    assert server.alive
