"""Fields that the table of a model sets in requests, or removes."""

from __future__ import annotations

from typing import Any

from proxy.web.model_tables import preset


def test_ollamas_options_are_changed_where_they_are() -> None:
    body = {"model": "m", "think": True, "options": {"temperature": 1, "top_k": 3}}
    changed = preset(body, ("top_k",), {"temperature": 0, "think": False}, options=True)
    assert changed == {"model": "m", "think": False, "options": {"temperature": 0}}
    assert preset({}, (), {"num_predict": 3}, options=True) == {"options": {"num_predict": 3}}


def test_wrong_options_are_left_for_the_dialect_to_refuse() -> None:
    body: dict[str, Any] = {"options": 3}
    assert preset(body, (), {"seed": 1}, options=True) == body
