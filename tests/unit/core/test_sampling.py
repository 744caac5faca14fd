"""Sampler fields that may go to a server that dies of a wrong type."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.sampling import FIELDS, LATER, check, left_out, logit_bias, needed, sampling
from proxy.errors import InvalidParameter

KINDS: dict[str, tuple[type, ...]] = {
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "string": (str,),
    "strings": (list,),
    "samplers": (list, str),
    "lora": (list,),
}
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.one_of(st.text(max_size=2), st.integers()), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
)


@given(st.sampled_from(sorted(FIELDS)), ANYTHING)
def test_accepted_value_has_type_and_bounds_of_its_field(name: str, value: Any) -> None:
    field = FIELDS[name]
    try:
        got = check(name, value)
    except InvalidParameter as error:
        assert error.param == name
        return
    assert type(got) in KINDS[field.kind]
    if field.kind in ("number", "integer"):
        assert field.low <= got <= field.high


def test_only_known_fields_are_read_and_null_is_absent() -> None:
    assert sampling({"temperature": 1, "top_k": None, "system_prompt": "x", "n": 3}) == {
        "temperature": 1
    }


@pytest.mark.parametrize(
    ("seed", "taken"),
    [
        (-1, -1),
        (0, 0),
        (2**32 - 2, 2**32 - 2),
        (2**32 - 1, 0),
        (2**63 - 1, 2**31 - 1),
        (-2, 2**32 - 3),
    ],
)
def test_seed_of_64_bits_maps_to_a_stable_32_bit_one(seed: int, taken: int) -> None:
    assert check("seed", seed) == taken


def test_samplers_are_names_or_letters() -> None:
    """llama.vscode sends both."""
    for value in (["top_k", "infill"], [], "edkypmxt"):
        assert check("samplers", value) == value


@pytest.mark.parametrize(
    ("name", "value", "must", "is_told"),
    [
        ("samplers", "edkypmxt", False, True),
        ("n_indent", 4, False, True),
        ("n_indent", 0, False, False),
        ("dry_base", 1.75, False, False),
        ("dry_multiplier", 0, False, False),
        ("dry_multiplier", 0.5, True, False),
        ("xtc_probability", 0.0, False, False),
        ("top_n_sigma", 2, True, False),
    ],
)
def test_unsupported_samplers_are_dropped_reported_or_refused(
    name: str, value: Any, must: bool, is_told: bool
) -> None:
    assert needed(name, value) is must
    assert [line.split()[0] for line in left_out({name: value}, LATER)] == [name] * is_told
    assert left_out({name: value}, frozenset()) == []


def test_logit_bias_of_openai_and_llama_cpp_becomes_pairs() -> None:
    assert logit_bias({"15": -100, "7": 0.5}) == [[15, -100], [7, 0.5]]
    assert logit_bias([[15, False], [7, 2]]) == [[15, False], [7, 2]]


def test_logit_bias_accepts_texts_for_ids() -> None:
    assert logit_bias({" the": -100, "7": False}) == [[" the", -100], [7, False]]
    assert logit_bias([[" the", False], ["-1", 2]]) == [[" the", False], ["-1", 2]]


@pytest.mark.parametrize(
    "value",
    [
        3,
        "x",
        {"": 1},
        {"a\0": 1},
        {"a" * 257: 1},
        {f"a{i}": 1 for i in range(257)},
        {"1": "x"},
        {"1": True},
        [[1]],
        [[-1, 1]],
        [[1, None]],
        ["1"],
    ],
)
def test_invalid_logit_bias_is_refused(value: Any) -> None:
    with pytest.raises(InvalidParameter, match="logit_bias"):
        logit_bias(value)
