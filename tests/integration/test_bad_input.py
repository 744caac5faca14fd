"""Any invalid request gets a 4xx with an error object, and the server survives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.asking import fetch
from tools.processes import Gateway, ModelServer

CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def address(any_old_server: ModelServer, module_gateway: Callable[..., Gateway]) -> str:
    """The address of a gateway whose server is restarted if the previous test crashed it."""
    flags = ("--llama-api", any_old_server.url, "--slots", "2", "--max-body", "65536")
    return module_gateway(*flags).url


BAD_FIELDS: dict[str, Any] = {
    "messages": [],
    "messages[0]": ["x"],
    "messages[0].role": [{"role": "nobody", "content": "x"}],
    "messages[0].content": [{"role": "user", "content": 5}],
    "messages[0].content[0].type": [{"role": "user", "content": [{"type": "odd"}]}],
    "temperature": "hot",
    "top_p": 7,
    "top_k": 1.5,
    "max_tokens": "many",
    "max_completion_tokens": -2,
    "n": 17,
    "stop": [5],
    "stream": "yes",
    "stream_options": 1,
    "seed": "x",
    "logit_bias": {"": 1},
    "logprobs": 3,
    "top_logprobs": 3,
    "presence_penalty": [],
    "mirostat": 9,
    "grammar": 7,
    "model": 7,
    "user": {},
    "tools": {},
    "tool_choice": 3,
}


@pytest.mark.parametrize("field", BAD_FIELDS)
def test_field_of_wrong_type_is_named(address: str, field: str) -> None:
    body: dict[str, Any] = {"messages": USER, "max_tokens": 2}
    body[field.partition("[")[0]] = BAD_FIELDS[field]
    status, _, value = fetch(address, CHAT, body)
    assert status == 400
    assert value["error"]["param"] == field


@pytest.mark.parametrize("grammar", ["root ::= (", "root ::= root", 'x ::= "a"', "root ::= x"])
def test_grammar_that_crashes_old_server_never_reaches_it(
    address: str, any_old_server: ModelServer, grammar: str
) -> None:
    body = {"messages": USER, "max_tokens": 2, "grammar": grammar}
    status, _, value = fetch(address, CHAT, body)
    assert (status, value["error"]["param"]) == (400, "grammar")
    status, _, _ = fetch(address, CHAT, {"messages": USER, "max_tokens": 2})
    assert status == 200
    assert any_old_server.alive


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", ""])
def test_json_without_content_type_is_accepted_but_not_cross_site(address: str, kind: str) -> None:
    body = {"messages": USER, "max_tokens": 2}
    headers = {"Content-Type": kind}
    assert fetch(address, CHAT, body, headers)[0] == 200
    headers["Origin"] = "http://elsewhere.example"
    status, _, value = fetch(address, CHAT, body, headers)
    assert (status, value["error"]["code"]) == (403, "unknown_origin")


def test_unsupported_parameter_of_old_backend_is_named(address: str) -> None:
    for field, value in (("xtc_probability", 0.5), ("dry_multiplier", 0.8), ("top_n_sigma", 1)):
        status, _, answer = fetch(address, CHAT, {"messages": USER, field: value})
        assert (status, answer["error"]["param"]) == (400, field)
    status, _, answer = fetch(address, "/v1/completions", {"prompt": "a", "suffix": "b"})
    assert (status, answer["error"]["param"]) == (400, "suffix")
