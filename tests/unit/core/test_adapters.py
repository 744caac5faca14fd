"""LoRA adapters of a request: valid fields, and the cache that it may use."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.core.adapters import Adapter, check, for_server, group_of
from proxy.core.sampling import sampling
from proxy.errors import InvalidParameter, Unsupported

SERVERS = (Adapter(0, "poet", 0.0), Adapter(1, "pirate", 1.0))


def test_the_last_scale_of_an_adapter_counts() -> None:
    value = [{"id": 1, "scale": 1}, {"id": 0, "scale": -0.5, "x": 1}, {"id": 1, "scale": 0}]
    assert sampling({"lora": value}) == {
        "lora": [{"id": 0, "scale": -0.5}, {"id": 1, "scale": 0}],
    }


@pytest.mark.parametrize(
    "value",
    [
        "poet",
        {"id": 0, "scale": 1},
        [0],
        [{"id": 0}],
        [{"scale": 1}],
        [{"id": True, "scale": 1}],
        [{"id": -1, "scale": 1}],
        [{"id": 64, "scale": 1}],
        [{"id": 0, "scale": "1"}],
        [{"id": 0, "scale": True}],
        [{"id": 0, "scale": float("nan")}],
        [{"id": 0, "scale": 1e9}],
        [{"id": 0, "scale": 1}] * 65,
    ],
)
def test_other_values_are_refused_by_name(value: Any) -> None:
    with pytest.raises(InvalidParameter) as refused:
        check(value)
    assert refused.value.param == "lora"


def test_caches_are_apart_for_different_scales_only() -> None:
    def of(*scales: float) -> str:
        return group_of("g", [{"id": n, "scale": scale} for n, scale in enumerate(scales)])

    sets = [group_of("g", None), of(0), of(1), of(0.5), of(0, 1), of(1, 1), group_of("g", "poet")]
    assert len({*sets, group_of("h", "poet")}) == 8
    assert of(1, 0) == of(1)  # as an adapter that is not listed
    assert group_of("g", []) == "g"  # a server then applies those of its start


def test_a_server_gets_its_own_numbers() -> None:
    assert for_server("pirate", SERVERS) == [{"id": 1, "scale": 1.0}]
    chosen = [{"id": 1, "scale": 0.5}]
    assert for_server(chosen, SERVERS) == chosen
    assert for_server([{"id": 0, "scale": 0}], ()) == []  # it changes nothing there
    for lora, adapters, words in (
        ("poet", (), "--lora FILE"),
        (chosen, (), "--lora FILE"),
        ("third", SERVERS, "no adapter 'third'"),
        ([{"id": 2, "scale": 1}], SERVERS, r"no adapter 2, but 0 \(poet\), 1 \(pirate\)"),
    ):
        with pytest.raises(Unsupported, match=words):
            for_server(lora, adapters)
