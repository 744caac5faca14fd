"""A prompt in pieces: a server of 2023 evaluates each prompt to its end, whoever waits and even if
its client has left. So the prompt of a request that gives way to others is sent in pieces: its
beginning, then longer ones, each of which continues the last in the same slot.

Pieces are token ids, because such a server takes seconds to find the tokens of a long text, in
which it does nothing else.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any

from msgspec.structs import replace

from ..backends.driver import LaterRun, Run
from ..backends.tokens import MOST_OLD
from ..core.events import Batch, Finished, Started
from ..core.task import Task
from ..core.usage import Usage
from ..runtime.cancel import Cancel
from ..scheduling.lease import Lease
from ..scheduling.prefix import agreement

PIECE = 512  # tokens: a batch of the server
ROUGH = 64  # tokens by which a place in the text is wrong, estimated from its characters
FREED = 0.1  # seconds until the server surely takes the next piece into the same slot
WHOLE = ("cache_prompt", "grammar")  # sampling fields of the whole prompt alone


def comes_in_pieces(task: Task, lease: Lease) -> bool:
    """Whether the prompt of a request to a server of 2023 should be sent in pieces."""
    if not lease.request.idle or lease.pinned < 0 or task.breaks or task.backend_templates:
        return False
    return task.suffix is None and 2 * PIECE < len(task.prompt) <= MOST_OLD


class InPieces(LaterRun):
    """A run whose prompt is evaluated piece by piece before the whole is sent. `begin` sends one to
    a slot; `ids` are the tokens of the text. `anew`: nothing in the slot may be
    reused."""

    def __init__(
        self,
        begin: Callable[[Task, int], Run],
        ids: Callable[[], list[int]],
        task: Task,
        lease: Lease,
        cancel: Cancel,
        *,
        anew: bool,
    ) -> None:
        self._begin, self._ids, self._task = begin, ids, task
        self._lease, self._cancel, self._anew = lease, cancel, anew
        self._cached: int | None = None  # tokens before the first piece
        self._is_whole = False  # the run is that of the whole prompt

    def _pieces(self) -> Iterator[tuple[Any, ...]]:
        """The pieces but for the last. The slot must not hold all of one: the server would evaluate
        its last token again and keep both."""
        prompt, held, begin = self._task.prompt, self._lease.grant.reuse, 0
        # Before the first token of a prompt is the one that begins it, as before a text.
        before, ids = ((), prompt) if isinstance(prompt, tuple) else (("",), tuple(self._ids()))
        if held is not None and not self._anew:
            begin, ends = held.tokens, held.chain.ends
            at = bisect_right(ends, agreement(held.chain, self._lease.request.chain))
            if at < len(ends):  # they differ before this place
                begin = min(begin, ends[at] * len(ids) // len(prompt) + ROUGH)
        for end in range(begin + PIECE, len(ids), PIECE):
            yield (*before, *ids[:end])

    def __iter__(self) -> Iterator[Batch]:
        task, anew, milliseconds = self._task, self._anew, 0.0
        sampling = {name: value for name, value in task.sampling.items() if name not in WHOLE}
        for prompt in self._pieces():
            reuse = {"cache_prompt": not anew}
            piece = replace(
                task, prompt=prompt, sampling=sampling | reuse, max_tokens=0, logprobs=None
            )
            self._run = run = self._begin(piece, self._lease.pinned)
            for batch in run:
                if batch and isinstance(last := batch[-1], Finished):
                    milliseconds += last.timings.prompt_ms
                    if self._cached is None:
                        self._cached = last.usage.cached
                yield []
            self._cancel.wait(max(FREED, self._lease.grant.backend.release_delay))
            self._cancel.check()
            if run.slot != self._lease.pinned:  # it was moved, so the rest continues nothing
                break
            anew = False
        if self._run is not None:
            task = replace(task, sampling={**task.sampling, "cache_prompt": not anew})
        self._run = self._begin(task, self._lease.pinned)
        self._is_whole = True
        for batch in self._run:
            if batch and isinstance(last := batch[-1], Finished):
                usage, times = self._counted(last.usage), last.timings
                times = replace(
                    times,
                    cache_n=usage.cached,
                    prompt_n=usage.prompt - usage.cached,
                    prompt_ms=milliseconds + times.prompt_ms,
                )
                batch[-1] = replace(last, usage=usage, timings=times)
            yield batch

    def usage(self) -> Usage:
        """Of a piece, nothing: it is not the prompt."""
        return self._counted(super().usage()) if self._is_whole else Usage()

    def _counted(self, usage: Usage) -> Usage:
        return usage if self._cached is None else replace(usage, cached=self._cached)


class Held(LaterRun):
    """A run without a token whose prompt its slot holds already: nothing is sent."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens  # about

    def __iter__(self) -> Iterator[Batch]:
        tokens = self._tokens
        yield [Started(), Finished(reason="length", usage=Usage(tokens, 0, tokens))]
