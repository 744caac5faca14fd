"""From a driver's run to the events of an answer.

Strategy. The text of a run passes stages: thoughts are parted from it, calls are read out of it,
the client's stop strings end it, and a document is judged when it is whole. Most answers are one
run. A second one follows on the same lease where a grammar must begin in the middle of an answer:

- behind the thoughts of a model that must give JSON or a call: thoughts are free;
- where a call opens in free text: from there on it cannot be malformed.

The first run is stopped there, and the next begins with the prompt and what was written so far, all
of it still in the slot's cache. That works on every server that knows grammars, whatever its age.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from ..backends.driver import Run
from ..backends.tokens import BOS
from ..cancel import Cancel
from ..compiling import grammar, judged
from ..core.events import Batch, Failed, Finished, Started, TextDelta
from ..core.request import CompletionRequest
from ..core.task import Task
from ..core.usage import Usage
from ..errors import BackendBusy, Cancelled, CharacterCut, GatewayError
from ..prompting.judging import InvalidOutput
from .fitting import limits
from .way import Manner, Turn, Way, start_bound

if TYPE_CHECKING:
    from .seat import Seat

BUSY_TRIES = 100
BUSY_WAIT = 0.02  # seconds until an old server has noticed that a stream was closed


class Answering:
    """One choice on one lease, as a Run: an iterable of batches, an empty one a tick of silence."""

    def __init__(
        self,
        task: Task,
        backend: Seat,
        cancel: Cancel,
        manner: Manner,
    ) -> None:
        self._task = task
        self._backend = backend
        self._cancel = cancel
        self._manner = manner
        self._later = False  # a run went before this one, on the same slot
        self._prompt_tokens = 0
        self._cached = 0  # tokens of the prompt, when the first run began
        self._spent = 0  # tokens of the runs before this one
        self._wasted = 0  # tokens of documents that were thrown away
        self._run = self._begin(self._first())

    @property
    def slot(self) -> int:
        return self._run.slot

    def usage(self) -> Usage:
        """Before the end an old backend has not told its counts."""
        usage = self._run.usage()
        prompt = self._prompt_tokens or usage.prompt or self._count()
        cached = self._cached if self._prompt_tokens else usage.cached
        return Usage(prompt, self._wasted + self._spent + usage.completion, cached)

    def close(self) -> None:
        self._run.close()

    def __iter__(self) -> Iterator[Batch]:
        task = self._task
        if task.free or task.request.stream or not judged(task.request, self._cancel):
            return self._answer()
        return self._tried(self._manner.json_retries)

    def _tried(self, tries: int) -> Iterator[Batch]:
        """A document that nobody has seen yet is made anew when it is not what was asked for."""
        while tries:
            held: list[Batch] = []
            for batch in self._answer():
                held.append(batch)
                if batch:
                    yield []
            last = held[-1][-1]
            if not (isinstance(last, Failed) and isinstance(last.error, InvalidOutput)):
                yield from held
                return
            tries -= 1
            self._again()
        yield from self._answer()

    def _answer(self) -> Iterator[Batch]:
        """The events of one try."""
        batches = self._runs(Way(self._task, self._manner, self.usage, self._cancel))
        if self._task.max_tokens == 0:
            batches = _silent(batches)
        if self._task.request.report.settings:
            batches = self._described(batches)
        return self._echoed(batches) if self._task.request.echo else batches

    def _echoed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The prompt goes before the answer's text. Raises CharacterCut before the backend is
        asked for an answer."""
        prompt = self._text_of_prompt()
        for batch in batches:
            if batch:
                batch.insert(1, TextDelta(prompt))
                yield batch
                break
            yield batch
        yield from batches

    def _described(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The end tells the settings and the prompt: the backend's own words, or else what it was
        asked. The client's bounds stand in place of ours, and no path of the backend is told."""
        request = self._task.request
        for batch in batches:
            if batch and type(batch[-1]) is Finished:
                last = batch[-1]
                limit = -1 if request.max_tokens is None else request.max_tokens
                used = last.settings
                if used is None:
                    used = {**self._backend.caps.settings, **request.sampling}
                settings = {
                    **{name: value for name, value in used.items() if name != "model"},
                    "n_predict": limit,
                    "max_tokens": limit,
                    "n_probs": request.logprobs or 0,
                    "stop": list(request.stop),
                    "stream": request.stream,
                }
                prompt = last.prompt
                if prompt is None or self._later:  # a later run's prompt holds part of the answer
                    try:
                        prompt = self._text_of_prompt()
                    except CharacterCut:
                        prompt = self._task.prompt  # the ids, as an old server repeats them itself
                batch[-1] = msgspec.structs.replace(last, settings=settings, prompt=prompt)
            yield batch

    def _runs(self, way: Way) -> Iterator[Batch]:
        begun = False
        while True:
            run = iter(self._patient() if self._later else self._run)
            for batch in run:
                if batch:
                    if begun and type(batch[0]) is Started:
                        del batch[0]  # of a run that is not the first
                    begun = True
                    if batch and type(batch[-1]) is Finished:
                        batch[-1] = self._told(batch[-1])
                out = way.feed(batch)
                if out or not batch:
                    yield out
                if way.turn is not None or way.ended:
                    break
                if begun and way.idle and not (self._later or self._wasted):
                    yield from run  # all the rest as it comes
                    return
            if way.turn is None:
                return
            after = self._turned(way, batch)
            if after is None:
                yield way.close(Finished("length", self.usage()))
                return
            if after:
                yield after

    def _patient(self) -> Iterator[Batch]:
        """The batches of a run that is not the first. It may find the slot still taken by the run
        before it, for as long as the server needs to see that its stream is closed."""
        left = BUSY_TRIES
        while True:
            try:
                for batch in self._run:
                    yield batch
                    left = left if not batch else 0
                return
            except BackendBusy:
                if not left:
                    raise
            left -= 1
            self._wait()
            self._run = self._begin(self._asked)

    def _turned(self, way: Way, batch: Batch) -> Batch | None:
        """Go on under the grammar the way asks for, in the middle of `batch`; None where no token
        is left for it."""
        turn, way.turn = way.turn, None
        assert turn is not None
        so_far = self.usage()
        self._run.close()
        if not self._prompt_tokens:
            self._prompt_tokens, self._cached = so_far.prompt, so_far.cached
        self._spent = self._kept(turn, batch, so_far.completion - self._wasted)
        self._later = True
        left = (self._task.max_tokens or 0) - self._spent
        if left < 1:
            return None
        prompt = self._task.prompt
        assert isinstance(prompt, str), "only a chat has thoughts and calls"
        self._run = self._begin(
            msgspec.structs.replace(
                self._task,
                request=_without_progress(self._task.request),
                prompt=prompt + turn.text,
                max_tokens=left,
                sampling={
                    **self._task.sampling,
                    "grammar": grammar(turn.bound, limits(self._backend.caps), self._cancel),
                },
            )
        )
        return way.bound(turn, self._spent)

    def _kept(self, turn: Turn, batch: Batch, written: int) -> int:
        """How many of the `written` tokens the next run goes on behind. What the last batch brought
        beyond that is thrown away, and costs nobody's budget: on a fast server one batch holds all
        that is left of it."""
        if not turn.text:
            return 0
        before = written - sum(e.pieces for e in batch if isinstance(e, TextDelta))
        try:
            fresh = self._backend.counter.count(turn.fresh) - BOS if turn.fresh else 0
        except GatewayError:
            return written
        return min(written, max(0, before) + fresh)

    def _begin(self, task: Task) -> Run:
        self._asked = task
        return self._backend.stream(task)

    def _first(self) -> Task:
        """The task of the first run: free until the thoughts are over."""
        if self._task.thinks and not self._task.native and start_bound(self._task) is not None:
            sampling = {k: v for k, v in self._task.sampling.items() if k != "grammar"}
            return msgspec.structs.replace(self._task, sampling=sampling)
        return self._task

    def _again(self) -> None:
        """The whole answer once more; with another seed where one was given."""
        self._wasted = self.usage().completion
        self.close()
        seed = self._task.sampling.get("seed")
        if seed is not None and seed >= 0:
            sampling = {**self._task.sampling, "seed": (seed + 1) % 2**32}
            self._task = msgspec.structs.replace(self._task, sampling=sampling)
        self._later, self._prompt_tokens, self._spent = True, 0, 0
        self._run = self._begin(self._first())

    def _told(self, finished: Finished) -> Finished:
        """The counts of all runs together: what the last one calls its prompt holds the text of
        those before it."""
        if not (self._prompt_tokens or self._wasted):
            return finished
        usage = finished.usage
        if self._prompt_tokens:
            written = max(0, usage.prompt - self._prompt_tokens)
            usage = Usage(self._prompt_tokens, written + usage.completion, self._cached)
        if self._wasted:
            usage = Usage(usage.prompt, usage.completion + self._wasted, usage.cached)
        return msgspec.structs.replace(finished, usage=usage)

    def _count(self) -> int:
        try:
            return self._backend.counter.count(self._task.prompt, self._cancel)
        except GatewayError:
            return 0

    def _text_of_prompt(self) -> str:
        prompt = self._task.prompt
        return prompt if isinstance(prompt, str) else self._backend.detokenize(list(prompt))

    def _wait(self) -> None:
        awake = threading.Event()
        self._cancel.add(awake.set)
        awake.wait(BUSY_WAIT)
        self._cancel.remove(awake.set)
        if self._cancel.cancelled:
            raise Cancelled("the client is gone")


def _without_progress(request: CompletionRequest) -> CompletionRequest:
    """For a run that is not the first: its prompt holds what was written already."""
    if not request.report.progress:
        return request
    report = msgspec.structs.replace(request.report, progress=False)
    return msgspec.structs.replace(request, report=report)


def _silent(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Of a request for no token at all: its prompt is read. Servers say one token nevertheless."""
    for batch in batches:
        kept: Batch = []
        for event in batch:
            if type(event) is Finished:
                counts = msgspec.structs.replace(event.usage, completion=0)
                kept.append(msgspec.structs.replace(event, reason="length", usage=counts))
            elif type(event) is Started or type(event) is Failed:
                kept.append(event)
        yield kept
