"""YAML as plain values, within bounds."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.llama_swap import MAX_DEPTH, MAX_SIZE, MAX_VALUES, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("true", True),
        ("12", 12),
        ("0x1F", 31),
        ("0o17", 15),
        ("-1.5e3", -1500.0),
        ("'12'", "12"),
        ("!!str 12", "12"),
        # Texts to Go's YAML, though not to YAML 1.1.
        ("on", "on"),
        ("22:22", "22:22"),
        ("2026-11-23", "2026-11-23"),
        ("1_000", "1_000"),
        ("|\n  # a\n  b", "# a\nb"),
    ],
)
def test_values_have_the_types_that_go_gives_them(text: str, value: Any) -> None:
    found = parse(text)
    assert (found, type(found)) == (value, type(value))


def test_names_are_texts_and_aliases_are_filled_in() -> None:
    assert parse("a: &x {1: 2}\nb: *x\nc: [*x]") == {
        "a": {"1": 2},
        "b": {"1": 2},
        "c": [{"1": 2}],
    }


def test_merge_keys_give_way_to_own_keys_and_earlier_tables() -> None:
    text = "x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\nz: {<<: [*x, *y], a: 3}"
    assert parse(text)["z"] == {"a": 3, "b": 1, "c": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "line 2: 'a' is there twice"),
        ("a: [1", "line 1: expected"),
        ("a: *b", "found undefined alias"),
        ("a: !!python/object:os.system x", "is not a value"),
        ("--- 1\n--- 2", "another document"),
        ("[a]: 1", "line 1: expected a name"),
        ("<<: 1", "<< needs a table"),
        ("a: \x00", "does not allow"),
        ("&x [*x]", f"more than {MAX_DEPTH} tables"),
        ("[" * 100_000, "too many lists"),
    ],
)
def test_wrong_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


@given(st.text(alphabet="ab1 \n\t:-[]{}&*!<|>'\"#%@`~?,.\\\x85\u2028", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse(text)


def test_size_is_bounded() -> None:
    with pytest.raises(ValueError, match=f"longer than {MAX_SIZE}"):
        parse("#" + "x" * MAX_SIZE)


def test_depth_is_bounded() -> None:
    assert parse("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(ValueError, match=f"more than {MAX_DEPTH} tables"):
        parse("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2))


def test_growing_aliases_are_bounded() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(ValueError, match=f"more than {MAX_VALUES} values"):
        parse("\n".join(lines))
