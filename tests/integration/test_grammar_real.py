"""Our grammars on real servers: none crashes a server, and large ones are fast."""

from __future__ import annotations

import time
from typing import Any

import pytest
import requests

from proxy.gbnf import NEW, OLD, GrammarError, GrammarLimits, check, schema_to_grammar
from tools.processes import ModelServer

TOKENS = 80


def limits_of(server: ModelServer) -> GrammarLimits:
    return NEW if server.name == "llama-2026" else OLD


def complete(server: ModelServer, grammar: str, tokens: int = TOKENS) -> dict[str, Any]:
    body = {"prompt": "Once", "n_predict": tokens, "grammar": grammar, "temperature": 1.0}
    reply = requests.post(f"{server.url}/completion", json=body, timeout=60)
    reply.raise_for_status()
    answer: dict[str, Any] = reply.json()
    return answer


def test_large_repetitions_are_fast(any_server: ModelServer) -> None:
    server, limits = any_server, limits_of(any_server)
    begin = time.monotonic()
    complete(server, 'root ::= [^"]*')
    free = time.monotonic() - begin
    begin = time.monotonic()
    complete(server, schema_to_grammar({"type": "string", "maxLength": 5000}, limits))
    assert time.monotonic() - begin < 20 * free + 5
    assert server.alive


# Without left recursion, which uses up all memory before the crash.
@pytest.mark.parametrize("text", ['root ::= "a', "root ::= a", 'start ::= "a"', 'root ::= ("a"?)*'])
def test_grammars_that_the_check_refuses_crash_the_old_server(
    text: str, old_server: ModelServer
) -> None:
    """Shows that the check is needed, and for which grammars."""
    with pytest.raises(GrammarError):
        check(text, OLD)
    with pytest.raises(requests.RequestException):
        complete(old_server, text, tokens=2)
    assert old_server.wait() < 0
    old_server.start()  # as it was found: others share it for longer than a test
