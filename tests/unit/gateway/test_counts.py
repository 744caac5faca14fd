"""What a request with several prompts and choices took, for the log and the metrics."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy.cancel import Cancel
from proxy.core.events import Finished
from proxy.core.request import CompletionRequest
from proxy.core.usage import Usage
from proxy.gateway import Info
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


class Slow(Info):
    """Between reading its counts and writing them others have their turn."""

    def __getattribute__(self, name: str) -> object:
        value = super().__getattribute__(name)
        if name == "usage":
            time.sleep(0.005)
        return value


def test_choices_of_several_threads_lose_no_counts() -> None:
    app = make_app(ScriptedDriver())
    gateway = services_of(app).gateway
    answer = gateway.answer(CompletionRequest(prompts=("one",), n=8), Cancel())
    answer.info = Slow()
    with ThreadPoolExecutor(8) as pool:
        for number in range(8):
            pool.submit(answer._count, number, Finished("stop", Usage(7, 3, 2)))
    assert answer.info.usage == Usage(7, 24, 2)
    answer.close()
    gateway.registry.close()
