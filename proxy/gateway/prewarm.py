"""Prewarming: the prompt of a request is evaluated into an idle slot, without an answer, for the
request that follows. It makes way for all others.

What stands behind the last message, where the answer begins, is left out: a server of 2023 that
holds a whole prompt has to evaluate it anew.

When a model was loaded, it gets what conversations usually begin with, such as an agent's tools and
system prompt. These beginnings are learned from first turns, per model and group of keys, and kept
in memory only. Of what only one conversation has, there are digests, and no text.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from ..backends.pools import Backend
from ..core.events import Failed, Finished
from ..core.fold import fold
from ..core.request import CompletionRequest, Report
from ..core.task import Task
from ..core.usage import Usage
from ..errors import Cancelled, GatewayError, NoIdleSlot
from ..runtime.cancel import Cancel
from ..runtime.locks import native_lock
from ..scheduling.prefix import Chain, agreement
from .answer import Answer
from .context import Caller, Choice, Info
from .gateway import Gateway

LEAST = 8_000  # characters of one, about 2 000 tokens,
LONGEST = 400_000  # and at most
MOST = 4  # of a model and group
MOST_GROUPS = 16
SAME = 0.8  # the part of one that another prompt has at least


class Head(Struct, frozen=True):
    chain: Chain
    text: str  # "" until two conversations share it
    caller: Caller  # the last one
    count: int  # conversations that begin with it


class Heads(Struct):
    by_group: OrderedDict[tuple[str, str], list[Head]] = field(default_factory=OrderedDict)
    lock: Any = field(default_factory=native_lock)

    def learn(self, model: str, caller: Caller, task: Task, chain: Chain) -> None:
        """Learn from the prompt of an answered request, which has this chain, if it is a
        conversation's first."""
        if len(task.prompt) < LEAST or task.breaks or caller.background or caller.idle:
            return
        messages, text, count = task.request.messages, task.text, 0
        if not text or "lora" in task.sampling:
            return
        if not messages or any(
            message.role == "assistant" or message.media for message in messages
        ):
            return
        chain = _until(LONGEST, chain)
        with self.lock:
            heads = self.by_group.setdefault((model, caller.group), [])
            self.by_group.move_to_end((model, caller.group))
            if len(self.by_group) > MOST_GROUPS:
                self.by_group.popitem(last=False)
            for head in heads:
                size = agreement(head.chain, chain)
                if size >= max(LEAST, SAME * len(head.text)):
                    chain, count = _until(size, chain), head.count
                    heads.remove(head)
                    break
            text = text[: chain.size] if count else ""
            heads[:] = [Head(chain, text, caller, count + 1), *heads][:MOST]

    def of(self, model: str) -> list[Head]:
        """Those of a model with which several conversations began, the most frequent first."""
        with self.lock:
            heads = [
                head
                for place in self.by_group
                if place[0] == model
                for head in self.by_group[place]
            ]
        return sorted((head for head in heads if head.count > 1), key=lambda head: -head.count)


def _until(size: int, chain: Chain) -> Chain:
    at = bisect_right(chain.ends, size)
    return Chain(chain.links[:at], chain.ends[:at])


AFTER_LOAD = 2  # learned beginnings that are prewarmed when a model was loaded
LEFT = 16  # characters or token ids at the end of a prompt that ends with its last message
GIVEN_WAY = (NoIdleSlot, Cancelled)


def prewarm(gateway: Gateway, request: CompletionRequest, cancel: Cancel, caller: Caller) -> Answer:
    """An answer without text that prewarms. Raises as `Gateway.answer`."""
    request = replace(request, max_tokens=0, n=1, stream=True, echo=False, logprobs=None)
    request = replace(request, compaction=None, report=Report())
    caller = replace(caller, idle=True, on_overflow="refuse")
    answer = gateway.answer(request, cancel, caller)
    make_tasks = answer.make_tasks
    return replace(
        answer,
        tasks=[*map(_without_end, answer.tasks)],
        make_tasks=lambda request: [*map(_without_end, make_tasks(request))],
    )


def warm_up(gateway: Gateway, request: CompletionRequest, cancel: Cancel, caller: Caller) -> Answer:
    """The same for a client that waits for it before it asks: at once or not at all. Where no slot
    is idle, or another request needs it, the answer ends there as if it was whole."""
    answer = prewarm(gateway, request, cancel, replace(caller, patience=0.0))
    answer.choices = _ending_well(answer.choices, answer.info)
    return answer


def _ending_well(choices: Iterator[Choice], info: Info) -> Iterator[Choice]:
    for number, batch in choices:
        if batch and type(end := batch[-1]) is Failed and type(end.error) in GIVEN_WAY:
            info.outcome = Cancelled.type
            yield number, [Finished(reason="stop", usage=Usage())]
        else:
            yield number, batch


def _without_end(task: Task) -> Task:
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


def after_load(gateway: Gateway, heads: Heads, stop: Cancel, backend: Backend) -> None:
    """If the model of this backend is loaded, prewarm what conversations usually begin with, in a
    thread. `stop` ends it."""
    caps, usual = backend.caps, heads.of(backend.model)[:AFTER_LOAD]
    if usual and backend.is_loaded and caps and not (caps.provisional or caps.native):
        work = partial(_prewarm_heads, gateway, stop, backend.model, usual)
        threading.Thread(target=work, name="prewarm", daemon=True).start()


def _prewarm_heads(gateway: Gateway, stop: Cancel, model: str, heads: Sequence[Head]) -> None:
    request = CompletionRequest(model=model, max_tokens=0, stream=True)
    for head in heads:
        cancel, text = Cancel(), head.text
        task = Task(prompt=text, boundaries=(len(text),), max_tokens=0, request=request)
        answer = Answer(
            context=gateway.context,
            request=request,
            model=model,
            name=model,
            tasks=[task],
            make_tasks=lambda _: [],  # never: the model is loaded
            # Nobody asked for it, so it counts for no limit.
            caller=replace(head.caller, idle=True, allowance=None),
            cancel=cancel,
        )
        over = stop.pass_on(cancel)
        try:
            with closing(answer):
                fold(answer)
        except GatewayError:  # others need the slots
            return
        finally:
            over()
