"""Prewarming: the prompt of a request is evaluated into an idle slot, without an answer, for the
request that follows. It makes way for all others.

What stands behind the last message, where the answer begins, is left out: a server of 2023 that
holds a whole prompt has to evaluate it anew.
"""

from __future__ import annotations

from msgspec.structs import replace

from ..core.request import CompletionRequest, Report
from ..core.task import Task
from ..runtime.cancel import Cancel
from .answer import Answer
from .context import Caller
from .gateway import Gateway

LEFT = 16  # characters or token ids at the end of a prompt that ends with its last message


def prewarm(gateway: Gateway, request: CompletionRequest, cancel: Cancel, caller: Caller) -> Answer:
    """An answer without text that prewarms. Raises as `Gateway.answer`."""
    request = replace(request, max_tokens=0, n=1, stream=True, echo=False, logprobs=None)
    request = replace(request, compaction=None, report=Report())
    caller = replace(caller, idle=True, on_overflow="refuse")
    answer = gateway.answer(request, cancel, caller)
    make_tasks = answer.make_tasks
    return replace(
        answer,
        tasks=[*map(head, answer.tasks)],
        make_tasks=make_tasks and (lambda: [*map(head, make_tasks())]),
    )


def head(task: Task) -> Task:
    """The task, whose prompt ends with its last message."""
    size = len(task.prompt)
    end = max(task.boundaries, default=size)
    if end >= size:
        end = size - LEFT
    if task.backend_templates or task.suffix is not None or task.media or end <= 0:
        return task
    return replace(
        task,
        prompt=task.prompt[:end],
        breaks=tuple(at for at in task.breaks if at < end),
        boundaries=tuple(at for at in task.boundaries if at <= end),
    )
