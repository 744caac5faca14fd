"""What a request with several prompts and choices took, for the log and the metrics."""

from __future__ import annotations

import pytest

from proxy.cancel import Cancel
from proxy.core.request import CompletionRequest
from proxy.core.usage import Usage
from tests.fakes import ScriptedDriver, make_app, say, services_of


@pytest.mark.parametrize(
    ("prompts", "n", "expected"),
    [
        (("one",), 1, Usage(7, 3, 2)),
        (("one",), 3, Usage(7, 9, 2)),
        (("one", "two"), 1, Usage(14, 6, 4)),
        (("one", "two"), 4, Usage(14, 24, 4)),
    ],
)
def test_prompt_counts_once_for_all_its_choices(
    prompts: tuple[str, ...], n: int, expected: Usage
) -> None:
    app = make_app(ScriptedDriver(say("a", "b", usage=Usage(7, 3, 2))))
    gateway = services_of(app).gateway
    answer = gateway.answer(CompletionRequest(prompts=prompts, n=n), Cancel())
    try:
        for _ in answer:
            pass
    finally:
        answer.close()
        gateway.registry.close()
    assert answer.info.usage == expected
