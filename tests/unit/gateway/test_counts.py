"""Token counts of a request with several prompts and choices, for log and metrics."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy.core.events import Finished
from proxy.core.request import CompletionRequest
from proxy.core.usage import Usage
from proxy.gateway import Info
from proxy.runtime.cancel import Cancel
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
def test_prompt_tokens_count_once_for_all_choices(
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


class SlowCounts(Info):
    """Lets other threads run between reading and writing its counts."""

    def __getattribute__(self, name: str) -> object:
        value = super().__getattribute__(name)
        if name == "usage":
            time.sleep(0.005)
        return value


def test_choices_in_several_threads_lose_no_counts() -> None:
    app = make_app(ScriptedDriver())
    gateway = services_of(app).gateway
    answer = gateway.answer(CompletionRequest(prompts=("one",), n=8), Cancel())
    answer.info = SlowCounts()
    with ThreadPoolExecutor(8) as pool:
        for number in range(8):
            pool.submit(answer._count, number, Finished(reason="stop", usage=Usage(7, 3, 2)))
    assert answer.info.usage == Usage(7, 24, 2)
    answer.close()
    gateway.registry.close()
