"""Token counts of a request with several prompts and choices, for log and metrics."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from proxy.accounts.rights import ALL
from proxy.apis.openai import answer as openai
from proxy.core.events import Failed, ReasoningDelta, Started, TextDelta
from proxy.core.fold import fold
from proxy.core.request import CompletionRequest
from proxy.core.task import Task
from proxy.core.usage import Usage
from proxy.errors import BackendFailed, Cancelled
from proxy.gateway import Gateway
from proxy.runtime.cancel import Cancel
from tests.fakes import Script, ScriptedDriver, ScriptsInTurn, say

Serve = Callable[..., Gateway]


def test_prompt_counts_as_in_the_answer_whichever_choice_ends_first(serve: Serve) -> None:
    first_ended = threading.Event()
    slow: Script = [lambda: first_ended.wait(60), *say("a", usage=Usage(7, 3, 0))]
    quick: Script = [*say("b", usage=Usage(7, 3, 6)), first_ended.set]
    gateway = serve(ScriptsInTurn(slow, quick))
    answer = gateway.answer(CompletionRequest(prompts=("one",), n=2), Cancel())
    finished = {one.index: one.finished for one in fold(answer)}
    answer.close()
    assert answer.info.usage == openai.total(finished, 2)
    assert answer.info.usage.cached == finished[0].usage.cached


@pytest.mark.parametrize("fails", [False, True])
def test_answer_that_did_not_end_counts_its_tokens_so_far(serve: Serve, fails: bool) -> None:
    script: Script = [*say("a", "b")[:-1], BackendFailed("out of memory")] if fails else say(*"abc")
    gateway = serve(ScriptedDriver(script), continue_broken=False)
    answer = gateway.answer(CompletionRequest(prompts=("one",), stream=True), Cancel())
    last = None
    for _, batch in answer:
        if TextDelta("b") in batch and not fails:
            break
        last = batch[-1]
    answer.close()
    assert isinstance(last, Failed) is fails
    assert answer.info.usage == Usage(7, 2, 0)
    assert answer.info.outcome == (BackendFailed("").code if fails else "cancelled")
    assert answer.info.slot_seconds > 0


@pytest.mark.parametrize("event", [TextDelta("a"), ReasoningDelta("a")])
def test_first_token_is_not_the_start_of_an_answer(
    serve: Serve, event: TextDelta | ReasoningDelta
) -> None:
    passed: list[float] = []
    script: Script = [[Started(0)], lambda: time.sleep(0.05), [event], *say("b")[1:]]
    gateway = serve(ScriptedDriver(script))
    answer = gateway.answer(CompletionRequest(prompts=("one",), stream=True), Cancel())
    for _, batch in answer:
        passed += [answer.info.first_token] * bool(batch)
    answer.close()
    assert passed[0] == 0 < 0.05 <= passed[1] == passed[-1] < answer.info.last_token


class Leaves(ScriptedDriver):
    """Its client leaves while it counts the tokens of a prompt."""

    def prompt_ids(self, task: Task, cancel: Cancel | None = None) -> list[int] | None:
        assert cancel is not None
        cancel.cancel()
        cancel.check()
        return None


@pytest.mark.parametrize("what", ["a request", "the prompt of an answer"])
def test_count_ends_with_its_client(serve: Serve, what: str) -> None:
    gateway = serve(Leaves())
    request, cancel = CompletionRequest(prompts=("one",)), Cancel()
    answer = gateway.answer(request, Cancel())
    with pytest.raises(Cancelled):
        if what == "a request":
            gateway.count(request, cancel, may=ALL)
        else:
            gateway.prompt_tokens(answer, cancel)
    answer.close()
