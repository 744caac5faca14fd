"""The stages that judge an answer whose form the prompt describes."""

from __future__ import annotations

import pytest

from proxy.core.events import Finished, TextDelta
from proxy.core.usage import Usage
from proxy.prompting.stages.validation import ValidationStage

END = Finished(reason="stop", usage=Usage())


class Lenient:
    """A judge that lets everything pass."""

    def fault(self, text: str) -> str:
        return ""


def document(text: str) -> str:
    stage = ValidationStage(Lenient(), holds=True)
    assert stage.feed([TextDelta(text)]) == []
    return "".join(event.text for event in stage.feed([END]) if isinstance(event, TextDelta))


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        ('```json\n{"a": 1}\n```', '{"a": 1}'),
        (" ```\n[1]``` \n", "[1]"),
        ("``````", ""),
        ("`````", "`````"),
        ('{"a": "```"}', '{"a": "```"}'),
        ("```json\n[1]", "```json\n[1]"),
    ],
)
def test_a_fence_around_a_document_is_removed(text: str, inner: str) -> None:
    assert document(text) == inner


def test_an_open_fence_before_many_lines_costs_little() -> None:
    text = "```json" + "\n" * 100_000 + "x"
    assert document(text) == text
