"""The budget of work: untrusted input takes less than a second."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from proxy import compiling
from proxy.gbnf import NEW, OLD, GrammarLimits, schema_to_grammar
from proxy.gbnf.work_budget import TooMuchWork, limited, spend
from proxy.prompting.constraints import Callee, Constraint

# Seconds of CPU: the budget is meant for one. With other processes running it takes three.
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


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("limits", [NEW, OLD], ids=["new", "old"])
def test_hostile_schema_compiles_in_bounded_time(name: str, limits: GrammarLimits) -> None:
    schema = json.dumps(HOSTILE[name]).encode()
    for job in (
        compiling.Bind(Constraint(schema=schema), limits.name),
        compiling.Validate(schema),
    ):
        began = time.process_time()
        compiling.do(job)
        assert time.process_time() - began < MOST


def test_refusal_names_the_budget_and_a_remedy() -> None:
    schema = json.dumps(HOSTILE["200 patterns"]).encode()
    found = compiling.do(compiling.Bind(Constraint(schema=schema), "new"))
    assert found.param == "response_format"
    assert "too much work" in found.reason
    assert "simplify its patterns" in found.reason


def test_tools_share_one_schema_budget() -> None:
    heavy = json.dumps({"properties": {"a": {"type": "string", "pattern": "(a|b)?" * 3000}}})
    one, *others = [
        Callee(f"t{i}", heavy.replace("a|b", f"a|{chr(98 + i)}").encode(), True) for i in range(20)
    ]
    assert compiling.do(compiling.Bind(Constraint(tools=(one,)), "new")).text
    found = compiling.do(compiling.Bind(Constraint(tools=(one, *others)), "new"))
    assert found.param == "tools"
    assert "fewer tools" in found.reason


def test_oversized_schema_is_refused() -> None:
    schema = b'{"description":"' + b"x" * compiling.MAX_SCHEMAS + b'"}'
    for job in (compiling.Bind(Constraint(schema=schema), "new"), compiling.Validate(schema)):
        assert str(compiling.MAX_SCHEMAS) in compiling.do(job).reason


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
def test_large_enums_have_a_grammar(schema: Any) -> None:
    found = compiling.do(
        compiling.Bind(Constraint(schema=json.dumps(schema).encode(), strict=True), "new")
    )
    assert found.reason == ""
    assert found.text


def test_enum_too_large_for_a_grammar_is_refused_by_name() -> None:
    import random

    draw = random.Random(4)
    words = ["".join(draw.choices("abcdefghij", k=12)) for _ in range(12_000)]
    with pytest.raises(ValueError, match=r"enum|too large"):
        schema_to_grammar({"enum": words}, NEW)


@pytest.mark.parametrize(
    "made",
    [
        lambda: "root ::= " + " ".join(f"a{i}" for i in range(15_000)) + "\n"
        + "".join(f'a{i}::="x"\n' for i in reversed(range(15_000))),
        lambda: "root ::= " + " ".join('("x"?){0,2000}' for _ in range(5_000)),
        lambda: 'root ::= "' + "x" * 500_000 + '"',
    ],
    ids=["references", "repetitions", "literal"],
)  # fmt: skip
def test_client_grammar_is_read_in_bounded_time(made: Callable[[], str]) -> None:
    grammar = made()
    for limits in ("new", "old"):
        began = time.process_time()
        compiling.do(compiling.OwnGrammar(grammar, limits))
        assert time.process_time() - began < MOST


@pytest.mark.slow
@pytest.mark.parametrize(
    "made",
    [
        lambda: compiling.Validate(
            json.dumps(
                {"items": {"anyOf": [{"required": [f"k{i}"]} for i in range(200)]}}
            ).encode(),
            json.dumps([{"z": 1}] * 20_000),
        ),
        lambda: compiling.Validate(
            b'{"uniqueItems":true}', json.dumps([[i, {"a": i}] for i in range(200_000)])
        ),
        lambda: compiling.Validate(b'{"pattern":"^(a|a)*b$"}', json.dumps("a" * 3_000_000)),
        lambda: compiling.OwnGrammar('root ::= (([a-z]? [a-z]?){0,200} "x")*', said="a" * 200_000),
    ],
    ids=["alternatives", "unique", "pattern", "grammar"],
)
def test_validation_of_an_answer_takes_bounded_time(
    made: Callable[[], compiling.Job],
) -> None:
    job = made()
    began = time.process_time()
    compiling.do(job)
    assert time.process_time() - began < MOST


def test_unique_items_distinguishes_equal_items() -> None:
    for text, fault in (("[1,true,[1],{}]", False), ("[1,1.0]", True), ('[{"a":1},{"a":1}]', True)):
        assert bool(compiling.do(compiling.Validate(b'{"uniqueItems":true}', text)).text) is fault


def test_invalid_pattern_is_refused_without_re() -> None:
    found = compiling.do(compiling.Validate(b'{"pattern":"(a"}'))
    assert "is not a 'regex'" in found.reason


def test_inner_budget_is_limited_by_the_outer_one() -> None:
    with limited(10):
        with limited(100), pytest.raises(TooMuchWork):
            spend(11)
        with pytest.raises(TooMuchWork):
            spend(1)
    spend(1_000_000)  # without a budget all work is free
