"""The requests of the sampling benchmark."""

from __future__ import annotations

import json

import pytest

from benchmarks.sampling import SCHEMAS, bodies
from proxy.gbnf import NEW, Matcher, check


@pytest.mark.parametrize("name", SCHEMAS)
def test_ways_that_are_compared_differ_in_the_grammar_alone(name: str) -> None:
    sent = bodies(SCHEMAS[name], 50)
    assert list(sent) == ["without", "ours", "the server's"]
    assert {body["prompt"] for body in sent.values()} == {sent["ours"]["prompt"]}
    assert sent["the server's"]["json_schema"] == SCHEMAS[name]
    matcher = Matcher(check(sent["ours"]["grammar"], NEW))
    assert matcher.feed(json.dumps({"key_0": "x"})[:-1])
