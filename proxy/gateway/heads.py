"""Beginnings of prompts that conversations share, such as an agent's tools and system prompt.

They are learned from first turns, per model and group of keys, and kept in memory only. Of what
only one conversation has, there are digests, and no text.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from typing import Any

from msgspec import Struct, field

from ..core.task import Task
from ..runtime.locks import native_lock
from ..scheduling.prefix import Chain, agreement
from .context import Caller

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
