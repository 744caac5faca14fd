"""Samples of a grammar are valid for its schema, and valid instances match the grammar."""

from __future__ import annotations

import json
import random
from datetime import date, datetime, time
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

from proxy.gbnf import (
    NEW,
    OLD,
    GrammarLimits,
    SchemaError,
    UnsupportedSchema,
    check,
    matches,
    schema_to_grammar,
)
from tests.thorough import share
from tests.unit.gbnf import samples

EXAMPLES = settings(
    max_examples=share(40),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
# Not "time": the checker knows draft 3's, without a zone. Times are read below.
FORMATS = FormatChecker(["date", "email", "ipv4", "uuid"])
BOTH = pytest.mark.parametrize("limits", [OLD, NEW], ids=lambda limits: limits.name)


def picker(data: st.DataObject) -> samples.Pick:
    return lambda below: data.draw(st.integers(0, below - 1))


def grammar_of(schema: Any, limits: GrammarLimits) -> str:
    try:
        return schema_to_grammar(schema, limits)
    except SchemaError as error:
        # Generated schemas may contradict themselves.
        assume("nothing satisfies" not in str(error))
        raise
    except UnsupportedSchema as error:
        # The one construct of generated schemas that an old server cannot handle.
        assume(error.keyword != "anyOf" or limits is NEW)
        assume(error.keyword != "minProperties")
        raise


@BOTH
@EXAMPLES
@given(st.data())
def test_samples_are_valid_for_the_schema(limits: GrammarLimits, data: st.DataObject) -> None:
    schema = samples.schema(picker(data))
    grammar = check(grammar_of(schema, limits), limits)
    validator = Draft202012Validator(schema, format_checker=FORMATS)
    sampler = samples.Sampler(grammar, random.Random(data.draw(st.integers(0, 9))))
    for budget in (5, 60, 300):
        text = sampler.text(budget)
        assert matches(grammar, text)
        validator.validate(json.loads(text))


@BOTH
@EXAMPLES
@given(st.data())
def test_valid_instances_match_the_grammar(limits: GrammarLimits, data: st.DataObject) -> None:
    pick = picker(data)
    schema = samples.schema(pick)
    grammar = check(grammar_of(schema, limits), limits)
    validator = Draft202012Validator(schema, format_checker=FORMATS)
    for _ in range(3):
        value = samples.instance(pick, schema)
        if validator.is_valid(value):
            for separators in ((",", ":"), (", ", ": ")):
                text = json.dumps(value, ensure_ascii=False, separators=separators)
                assert matches(grammar, text), text


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("date", date.fromisoformat),
        ("time", time.fromisoformat),
        ("date-time", datetime.fromisoformat),
    ],
)
def test_sampled_dates_and_times_exist(name: str, read: Any) -> None:
    grammar = check(schema_to_grammar({"type": "string", "format": name}, OLD), OLD)
    sampler = samples.Sampler(grammar, random.Random(1))
    for _ in range(300):
        read(json.loads(sampler.text()))
