"""The budget of work: what a stranger sends takes less than a second, however it is made."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from proxy.prompting import work
from proxy.prompting.bind import Bound
from proxy.prompting.grammar import NEW, OLD, Limits, schema_to_grammar
from proxy.prompting.grammar.effort import TooMuchWork, limited, spend

# Seconds of CPU: the budget is meant for one. Beside other processes it takes three.
MOST = 9.0


HOSTILE: dict[str, Any] = {
    "200 patterns": {
        "type": "object",
        "properties": {
            f"p{i}": {
                "type": "string",
                "pattern": "^{0}{0}{0}$".format("[a-z]{1,%d}" % (400 + i)),  # noqa: UP031
            }
            for i in range(200)
        },
    },
    "4000 optional alternatives": {"type": "string", "pattern": "(a|b)?" * 4000},
    "deep alternatives": {"type": "string", "pattern": "((((a|b){1,90}){1,90}){1,90}){1,90}"},
    "enum of 50 000": {"enum": [f"v{i}" for i in range(50_000)]},
    "listed objects": {"enum": [{"a": i, "b": [i, {"c": str(i)}]} for i in range(5000)]},
    "10 000 required": {
        "properties": {f"a{i}": {} for i in range(10_000)},
        "required": [f"a{i}" for i in range(10_000)],
    },
    "10 000 optional": {"properties": {f"a{i}": {"type": "integer"} for i in range(10_000)}},
    "ranges": {
        "properties": {
            f"a{i}": {"type": "number", "minimum": i + i / 1000, "maximum": 10.0 ** (i % 90) + i}
            for i in range(1000)
        }
    },
    "large steps": {
        "properties": {
            f"a{i}": {"type": "integer", "multipleOf": 3000 + i, "minimum": 5} for i in range(40)
        }
    },
    "tags": {
        "oneOf": [
            {"type": "object", "properties": {"t": {"const": f"k{i}"}}, "required": ["t"]}
            for i in range(400)
        ]
    },
}
"""Each takes many seconds, or minutes, without a budget."""


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("limits", [NEW, OLD], ids=["new", "old"])
def test_hostile_schema_takes_a_bounded_time(name: str, limits: Limits) -> None:
    schema = json.dumps(HOSTILE[name]).encode()
    for job in (work.Bind(Bound(schema=schema), limits.name), work.ReadSchema(schema)):
        began = time.process_time()
        work.do(job)
        assert time.process_time() - began < MOST


def test_refusal_names_the_budget_and_what_to_do() -> None:
    schema = json.dumps(HOSTILE["200 patterns"]).encode()
    found = work.do(work.Bind(Bound(schema=schema), "new"))
    assert found.param == "response_format"
    assert "too much work" in found.reason
    assert "simplify its patterns" in found.reason


def test_tools_share_one_budget() -> None:
    heavy = json.dumps({"properties": {"a": {"type": "string", "pattern": "(a|b)?" * 3000}}})
    one, *others = [
        work.bind.Callee(f"t{i}", heavy.replace("a|b", f"a|{chr(98 + i)}").encode(), True)
        for i in range(20)
    ]
    assert work.do(work.Bind(Bound(tools=(one,)), "new")).text
    found = work.do(work.Bind(Bound(tools=(one, *others)), "new"))
    assert found.param == "tools"
    assert "fewer tools" in found.reason


def test_more_bytes_of_schema_than_may_be_are_refused() -> None:
    schema = b'{"description":"' + b"x" * work.MAX_SCHEMAS + b'"}'
    for job in (work.Bind(Bound(schema=schema), "new"), work.ReadSchema(schema)):
        assert str(work.MAX_SCHEMAS) in work.do(job).reason


@pytest.mark.parametrize(
    "schema",
    [
        {"const": "x" * 41_000},
        {"enum": [f"v{i}" for i in range(8_000)]},
        {"enum": [f"value {i * 7919 % 100_003}" for i in range(6_000)]},
        {"enum": list(range(8_000))},
    ],
    ids=["const of 41 000", "enum of 8 000", "enum of 6 000 words", "enum of 8 000 numbers"],
)
def test_large_lists_of_values_have_a_grammar(schema: Any) -> None:
    found = work.do(work.Bind(Bound(schema=json.dumps(schema).encode(), strict=True), "new"))
    assert found.reason == ""
    assert found.text


def test_list_beyond_any_grammar_is_refused_by_name() -> None:
    import random

    draw = random.Random(4)
    words = ["".join(draw.choices("abcdefghij", k=12)) for _ in range(12_000)]
    with pytest.raises(ValueError, match=r"enum|too large"):
        schema_to_grammar({"enum": words}, NEW)


@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= " + " ".join(f"a{i}" for i in range(15_000)) + "\n"
        + "".join(f'a{i}::="x"\n' for i in reversed(range(15_000))),
        "root ::= " + " ".join('("x"?){0,2000}' for _ in range(5_000)),
        'root ::= "' + "x" * 500_000 + '"',
    ],
    ids=["references", "repetitions", "literal"],
)  # fmt: skip
def test_clients_grammar_takes_a_bounded_time(grammar: str) -> None:
    for limits in ("new", "old"):
        began = time.process_time()
        work.do(work.ReadGrammar(grammar, limits))
        assert time.process_time() - began < MOST


@pytest.mark.parametrize(
    "job",
    [
        work.JudgeText(
            json.dumps(
                {"items": {"anyOf": [{"required": [f"k{i}"]} for i in range(200)]}}
            ).encode(),
            json.dumps([{"z": 1}] * 20_000),
        ),
        work.JudgeText(
            b'{"uniqueItems":true}', json.dumps([[i, {"a": i}] for i in range(200_000)])
        ),
        work.JudgeText(b'{"pattern":"^(a|a)*b$"}', json.dumps("a" * 3_000_000)),
        work.Match('root ::= (([a-z]? [a-z]?){0,200} "x")*', "a" * 200_000),
    ],
    ids=["alternatives", "unique", "pattern", "grammar"],
)
def test_judging_an_answer_takes_a_bounded_time(job: work.JudgeText | work.Match) -> None:
    began = time.process_time()
    work.do(job)
    assert time.process_time() - began < MOST


def test_unique_items_are_told_from_equal_ones() -> None:
    for text, fault in (("[1,true,[1],{}]", False), ("[1,1.0]", True), ('[{"a":1},{"a":1}]', True)):
        assert bool(work.do(work.JudgeText(b'{"uniqueItems":true}', text)).text) is fault


def test_pattern_that_is_none_is_refused_without_re() -> None:
    found = work.do(work.ReadSchema(b'{"pattern":"(a"}'))
    assert "is not a 'regex'" in found.reason


def test_budget_inside_a_budget_is_no_larger() -> None:
    with limited(10):
        with limited(100), pytest.raises(TooMuchWork):
            spend(11)
        with pytest.raises(TooMuchWork):
            spend(1)
    spend(1_000_000)  # without one everything is free
