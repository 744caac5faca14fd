"""A prompt in pieces: a server of 2023 evaluates each prompt to its end, whoever waits and even if
its client has left. So the prompt of a request that gives way to others is sent in pieces: its
beginning, then longer ones, each of which continues the last in the same slot.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence

from msgspec.structs import replace

from ..backends.driver import LaterRun, Run
from ..backends.pools import SETTLE
from ..core.events import Batch, Finished, Started
from ..core.task import Task
from ..core.usage import Usage
from ..runtime.cancel import Cancel
from ..scheduling.lease import Lease
from ..scheduling.prefix import agreement

PIECE = 1024  # characters or token ids: half a batch of a server, at most two
TOKEN = 8  # characters of a token, hardly more
WHOLE = ("cache_prompt", "grammar")  # sampling fields of the whole prompt alone


def piece_ends(task: Task, lease: Lease) -> Sequence[int]:
    """Where the pieces of a prompt end, but for the last; () if it stays whole. The slot must not
    hold all of a piece: the server would evaluate its last token again and keep both."""
    if lease.pinned < 0 or task.backend_templates or task.suffix is not None:
        return ()
    held, begin = lease.grant.reuse, 0
    if held is not None and held.chain.ends:
        ends = held.chain.ends
        at = bisect_right(ends, agreement(held.chain, lease.request.chain))
        begin = ends[at] if at < len(ends) else ends[-1] + TOKEN * (held.tokens - held.prompt)
    return range(begin + PIECE, len(task.prompt), PIECE)


class InPieces(LaterRun):
    """A run whose prompt is evaluated up to each of `ends` before the whole is sent. `begin` sends
    one; all go to `slot`. `anew`: nothing that the slot holds may be reused."""

    def __init__(
        self,
        begin: Callable[[Task], Run],
        task: Task,
        ends: Sequence[int],
        cancel: Cancel,
        *,
        slot: int,
        anew: bool,
    ) -> None:
        self._begin, self._task, self._ends, self._cancel = begin, task, ends, cancel
        self._slot, self._anew = slot, anew
        self._cached: int | None = None  # tokens before the first piece
        self._is_whole = False  # the run is that of the whole prompt

    def __iter__(self) -> Iterator[Batch]:
        task, anew, milliseconds = self._task, self._anew, 0.0
        sampling = {name: value for name, value in task.sampling.items() if name not in WHOLE}
        for end in self._ends:
            piece = replace(
                task,
                prompt=task.prompt[:end],
                breaks=tuple(at for at in task.breaks if at < end),
                sampling={**sampling, "cache_prompt": not anew},
                max_tokens=0,
                logprobs=None,
            )
            self._run = run = self._begin(piece)
            for batch in run:
                if batch and isinstance(last := batch[-1], Finished):
                    milliseconds += last.timings.prompt_ms
                    if self._cached is None:
                        self._cached = last.usage.cached
                yield []
            if run.slot != self._slot:  # the server has moved it, so the rest continues nothing
                break
            anew = False
            self._cancel.wait(SETTLE)
            self._cancel.check()
        whole = replace(task, sampling={**task.sampling, "cache_prompt": not anew})
        self._run = self._begin(whole)
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
