"""Golden files of OpenAI's dialects: request bodies of clients, and what they parse to.

tests/cases/<dialect>/<name>.json holds {"body": …, "request": …}: the request without the fields
that have their default.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.apis.openai import chat as openai_chat
from proxy.apis.openai import completions as openai_completions
from proxy.errors import InvalidParameter
from tests.thorough import share

CASES = Path(__file__).resolve().parents[2] / "cases"
DIALECTS: dict[str, ModuleType] = {
    "openai_chat": openai_chat,
    "openai_completions": openai_completions,
}
FILES = [
    pytest.param(name, path, id=f"{name}-{path.stem}")
    for name in DIALECTS
    for path in sorted((CASES / name).glob("*.json"))
]


def sparse(value: Any) -> Any:
    """Plain data, without fields that have their default."""
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.fields(type(value))
        given = {f.name: getattr(value, f.name) for f in fields}
        return {
            f.name: sparse(given[f.name])
            for f in fields
            if given[f.name] != f.default and given[f.name] != {}
        }
    if isinstance(value, (list, tuple)):
        return [sparse(one) for one in value]
    return value


@pytest.mark.parametrize(("dialect", "path"), FILES)
def test_body_parses_to_its_golden_request(dialect: str, path: Path) -> None:
    case = json.loads(path.read_text("utf-8"))
    assert sparse(DIALECTS[dialect].parse(case["body"])) == case["request"]


def test_there_are_cases() -> None:
    assert len(FILES) >= 10


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(0, 3), st.text(max_size=3), st.just([]), st.just({})
)
MESSAGES = st.dictionaries(
    st.sampled_from(["role", "content", "name", "x"]),
    st.one_of(VALUES, st.sampled_from(["user", "developer", "tool"])),
)


def told(body: dict[str, Any]) -> Any:
    try:
        return openai_chat.parse(body)
    except InvalidParameter as error:
        return str(error)


@settings(max_examples=share(300))
@given(message=MESSAGES)
def test_plain_message_fast_path_parses_identically(message: dict[str, Any]) -> None:
    # A message with further fields is read field by field.
    assert told({"messages": [message]}) == told({"messages": [{**message, "more": None}]})


def test_null_field_equals_absent_field() -> None:
    names = openai_chat.FIELDS
    body = {"messages": [{"role": "user", "content": "hi"}]}
    assert told({**dict.fromkeys(names), **body}) == openai_chat.parse(body)
