"""Turns the batches of a driver's runs into the events of an answer.

Strategy. The text of a run passes through stages: reasoning is separated, tool calls are parsed,
the client's stop strings end it, and a complete document is validated. Most answers are one run.
Another run follows on the same slot

- after the reasoning of a model that must write JSON or a call: reasoning is not constrained;
- where a call begins in free text: from there on, a grammar keeps it well-formed;
- where a document failed validation and the client has not seen it yet: it is written again.

The first two begin with the prompt and the text so far, which is still in the slot's cache. That
works on every server that supports grammars. This module only says which run is needed; `attempt`
starts it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ..backends.driver import Capabilities
from ..compiling import judged
from ..core.events import LAST, Batch, Failed, Finished, Started, TextDelta
from ..core.task import Task
from ..core.usage import Usage
from ..errors import CharacterCut
from ..prompting.constraints import must_call
from ..prompting.stages.validation import InvalidOutput
from ..runtime.cancel import Cancel
from .postprocess import GenerationSettings, GrammarSwitch, StagePipeline, start_bound


class Generation:
    """The events of one choice.

    `retry`: it needs a run from the beginning. `idle`: from now on, batches pass unchanged, and if
    `text_passes`, those of text alone.
    `holds`: nothing is passed on before the end. `later`: the current run began after a part of
    the answer. `caps` are those of the current backend.
    `wrong` is the text of an answer that is to be written again, if its form was described, and
    `fault` what was wrong."""

    def __init__(
        self,
        task: Task,
        caps: Capabilities,
        settings: GenerationSettings,
        *,
        usage: Callable[[], Usage],
        prompt_text: Callable[[], str],
        cancel: Cancel,
    ) -> None:
        """`usage` returns the token counts so far, `prompt_text` the prompt as text. Raises
        CharacterCut if the answer is to echo a prompt that is not valid text."""
        self.caps = caps
        self.later = False
        self.fault = self.wrong = ""
        self._task = task
        self._settings = settings
        self._usage = usage
        self._prompt_text = prompt_text
        self._cancel = cancel
        request = task.request
        self._tries = settings.json_retries
        validated = not task.is_unconstrained and (
            task.described or judged(request, cancel) is not None
        )
        if validated and request.stream:
            # A described document or call is held back until it was judged.
            bound = request.output.kind != "text" or must_call(request)
            validated = task.described and bound
        self.holds = validated and self._tries > 0
        self._echo = prompt_text() if request.echo else None
        self._begin()

    def _begin(self) -> None:
        request = self._task.request
        self._stages = StagePipeline(self._task, self._settings, self._usage, self._cancel)
        self._held: Batch = []
        self._wrong: list[str] = []
        self._to_echo = self._echo
        adds = request.echo or request.report.settings or self._task.max_tokens == 0
        adds = adds or self._task.described
        self._only_stages = not (self.holds or adds)
        self.retry = False
        self.idle = self._only_stages and self._stages.idle
        self.text_passes = self._only_stages and self._stages.text_passes

    @property
    def switch(self) -> GrammarSwitch | None:
        """The grammar-constrained run that the answer needs next, if any."""
        return self._stages.switch

    @property
    def stops(self) -> bool:
        """Whether the rest of the current run is not needed."""
        return self._stages.switch is not None or self._stages.ended

    @property
    def thought(self) -> bool:
        """Whether the answer has reasoning so far, apart from its text."""
        return self._stages.thought

    def feed(self, batch: Batch) -> Batch:
        """Process a batch of the run. Returns the events to pass on."""
        if self.idle:
            return batch
        if self._task.described and self.holds:
            self._wrong += [event.text for event in batch if isinstance(event, TextDelta)]
        out = self._stages.feed(batch)
        self.idle = self._only_stages and self._stages.idle
        self.text_passes = self.text_passes or self.idle
        return self._pass_on(out)

    def on_switched(self, tokens: int) -> Batch:
        """Handle the start of the run that `switch` requested, after so many tokens."""
        self.later = True
        return self._pass_on(self._stages.on_switched(tokens))

    def on_limit(self, finished: Finished) -> Batch:
        """Handle the end of the answer because no token is left for another run."""
        out: Batch = [] if self.switch is not None else self.feed([finished])
        if self.switch is not None:
            out += self._pass_on(self._stages.on_limit(finished))
        return out

    def begin_again(self) -> None:
        """Prepare to write the document again."""
        self._tries -= 1
        self.holds = self._tries > 0
        self.later = True
        self._begin()

    def _pass_on(self, batch: Batch) -> Batch:
        if self._only_stages:
            return batch
        if self._task.max_tokens == 0:
            batch = _silent(batch)
        if self._task.described and batch and type(batch[-1]) is Failed:
            batch = [*batch[:-1], self._explained(batch[-1])]
        if self._task.request.report.settings and batch and type(batch[-1]) is Finished:
            batch[-1] = self._described(batch[-1])
        if self._to_echo is not None and batch:
            batch.insert(1, TextDelta(self._to_echo))
            self._to_echo = None
        return self._hold(batch) if self.holds else batch

    def _explained(self, failed: Failed) -> Failed:
        """A failed validation, with the parameter, and the backend that does not enforce it."""
        error = failed.error
        if not isinstance(error, InvalidOutput):
            return failed
        param = error.param or "response_format"
        server = self.caps.dialect
        words = f"{error} ({param} is not enforced by this model's backend, {server})"
        return Failed(InvalidOutput(words, param=param))

    def _hold(self, batch: Batch) -> Batch:
        self._held += batch
        last = batch[-1] if batch else None
        if type(last) not in LAST:
            return []
        self.retry = False
        if isinstance(last, Failed) and isinstance(last.error, InvalidOutput):
            self.retry, self.fault, self.wrong = True, str(last.error), "".join(self._wrong)
        return [] if self.retry else self._held

    def _described(self, finished: Finished) -> Finished:
        """Add the settings and the prompt to the end: those that the backend reported, otherwise
        those it was sent. The client's limits replace ours, and no path of the backend is shown."""
        request = self._task.request
        limit = -1 if request.max_tokens is None else request.max_tokens
        reported = finished.settings
        if reported is None:
            reported = {**self.caps.settings, **request.sampling}
        reported = {
            **{name: value for name, value in reported.items() if name != "model"},
            "n_predict": limit,
            "max_tokens": limit,
            "n_probs": request.logprobs or 0,
            "stop": list(request.stop),
            "stream": request.stream,
        }
        prompt = finished.prompt
        if prompt is None or self.later:  # a later run's prompt includes part of the answer
            try:
                prompt = self._prompt_text()
            except CharacterCut:
                prompt = self._task.prompt  # the token ids, which an old server returns as well
        return msgspec.structs.replace(finished, settings=reported, prompt=prompt)


def first_run(task: Task) -> Task:
    """The task of the first run. A model that reasons first is not constrained by a grammar."""
    if task.thinks and not task.backend_templates and start_bound(task) is not None:
        sampling = {k: v for k, v in task.sampling.items() if k != "grammar"}
        return msgspec.structs.replace(task, sampling=sampling)
    return task


def later_run(task: Task, text: str, left: int) -> Task:
    """The task of a run that continues after `text`, for `left` more tokens."""
    assert isinstance(task.prompt, str), "only a prompt of text can be continued"
    request = task.request
    if request.report.progress:  # the prompt includes text that was written already
        report = msgspec.structs.replace(request.report, progress=False)
        request = msgspec.structs.replace(request, report=report)
    breaks = (len(task.prompt) + at for at in task.guard.breaks(text))
    return msgspec.structs.replace(
        task,
        request=request,
        prompt=task.prompt + text,
        breaks=(*task.breaks, *breaks),
        max_tokens=left,
    )


def _silent(batch: Batch) -> Batch:
    """Remove all text, for a request for no tokens. Servers write one token nevertheless."""
    out: Batch = []
    for event in batch:
        if type(event) is Finished:
            counts = msgspec.structs.replace(event.usage, completion=0)
            out.append(msgspec.structs.replace(event, reason="length", usage=counts))
        elif type(event) is Started or type(event) is Failed:
            out.append(event)
    return out
