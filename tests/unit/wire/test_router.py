"""What a router's list and events are read as."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.wire.router import LONGEST, MOST, Listed, forgotten, listed, room


def entry(name: object, value: str, **status: Any) -> dict[str, Any]:
    return {"id": name, "object": "model", "status": {"value": value, **status}}


def test_models_are_listed_with_status_and_instance() -> None:
    answer = {
        "data": [
            {
                **entry("a", "loaded", args=["llama-server", "--port", "41001", "-c", "512"]),
                "aliases": ["small", "tiny"],
                "architecture": {"input_modalities": ["text", "image"]},
            },
            entry("org/b:Q4", "unloaded", args=[]),
        ]
    }
    assert listed(answer) == {
        "a": Listed(
            name="a", status="loaded", instance="41001", aliases=("small", "tiny"), vision=True
        ),
        "org/b:Q4": Listed(name="org/b:Q4", status="unloaded"),
    }


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {},
        {"data": 1},
        {"data": [1]},
        {"data": [{"id": "plain", "object": "model", "meta": {}}]},
        {"data": [{"id": "a", "status": "loaded"}]},
    ],
)
def test_answer_of_another_server_is_not_a_router(answer: object) -> None:
    assert listed(answer) is None


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], []),
        (
            [entry("a", "unloaded", failed=True, exit_code=1)],
            [Listed(name="a", status="failed", exit_code=1)],
        ),
        (
            [entry("a", "downloading"), entry("b", "sleeping")],
            [Listed(name="b", status="sleeping")],
        ),
        ([entry(name, "loaded") for name in ("", None, 5, "x" * (LONGEST + 1))], []),
        (
            [
                {
                    **entry("a", "loaded", args={"--port": 1}, exit_code="1"),
                    "aliases": "small",
                    "architecture": {"input_modalities": "image"},
                }
            ],
            [Listed(name="a", status="loaded")],
        ),
    ],
    ids=["none", "failed", "downloading", "unusable names", "wrong types"],
)
def test_models_that_can_be_requested_are_listed(
    entries: list[dict[str, Any]], expected: list[Listed]
) -> None:
    assert listed({"data": entries}) == {model.name: model for model in expected}


def test_number_of_models_is_bounded() -> None:
    models = listed({"data": [entry(str(n), "unloaded") for n in range(MOST + 5)]})
    assert models is not None
    assert len(models) == MOST


def at(status: str, instance: str) -> Listed:
    return Listed(name="a", status=status, instance=instance)


@pytest.mark.parametrize(
    ("old", "new", "lost"),
    [
        (at("loaded", "1"), at("loaded", "1"), False),
        (at("loaded", "1"), at("unloaded", "1"), True),
        (at("loaded", "1"), at("sleeping", "1"), True),
        (at("loaded", "1"), at("failed", "1"), True),
        (at("loaded", "1"), at("loaded", "2"), True),  # it went and came between two looks
        (at("unloaded", "1"), at("unloaded", "2"), True),  # it came and went
        (at("unloaded", "1"), at("loading", "2"), True),
        # The prompts went with the old model; later ones are of new requests.
        (at("unloaded", "1"), at("loaded", "2"), False),
        (at("loading", "2"), at("loaded", "2"), False),
        (at("sleeping", "2"), at("loaded", "2"), False),
    ],
)
def test_new_model_process_has_no_cached_prompts(old: Listed, new: Listed, lost: bool) -> None:
    assert forgotten(old, new) is lost


@pytest.mark.parametrize(
    ("props", "most"), [({"max_instances": 4}, 4), ({"max_instances": -1}, 0), ({}, 0), (None, 0)]
)
def test_capacity_is_max_instances(props: object, most: int) -> None:
    assert room(props) == most
