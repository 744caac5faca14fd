"""Post-processing stages of one attempt, and when they need a grammar-constrained run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec
from msgspec import Struct

from ..compiling import judged
from ..core.events import Batch, Finished, ReasoningDelta, TextDelta
from ..core.task import Task
from ..core.usage import Usage
from ..prompting import constraints
from ..prompting.formats import CallFormat
from ..prompting.stages.calls import CallLimit, CallStage, NewIds
from ..prompting.stages.prompted_output import CallsStage
from ..prompting.stages.reasoning import ContentStage, InlineStage, ThoughtStage
from ..prompting.stages.stop import Stage, StopStage
from ..prompting.stages.validation import ValidationStage
from ..runtime.cancel import Cancel
from .adapt import call_judges, form_of, syntax_of

Reasoning = Literal["deepseek", "none", "raw"]


MAX_MEDIA = 20 << 20  # bytes of an image or sound: a photo of a telephone has a quarter of that
MAX_CALLS = 8  # models that loop repeat a call for ever; agents that work use two or three at once


class GenerationSettings(Struct, frozen=True):
    """Settings for post-processing. `new_id` creates ids for tool calls; `json_retries` is how
    often a document that failed validation is written again, if the client has not seen it yet;
    `max_media` is the maximum size of an image or sound, in bytes; `max_parallel_calls` the maximum
    number of calls in an answer to a request that does not say."""

    new_id: Callable[[], str]
    json_retries: int = 1
    reasoning: Reasoning = "deepseek"
    max_media: int = MAX_MEDIA
    max_parallel_calls: int = MAX_CALLS


class GrammarSwitch(Struct, frozen=True):
    """A request for a run that continues after the prompt and `text`, under the grammar of `bound`.

    `fresh` is the end of `text` that came in the last batch, whose tokens are not counted yet.
    `begun` is the beginning of the open call, for the call parser."""

    text: str
    bound: constraints.Constraint
    fresh: str
    begun: str = ""


class StagePipeline:
    """`switch` is the run that the answer needs next; `ended`: a stage ended the answer; `idle`:
    from now on, batches pass unchanged. `text_passes`: those of text alone do; other events of a
    backend that parses its answers itself may need a stage."""

    switch: GrammarSwitch | None = None
    ended = False
    _thoughts: ThoughtStage | None = None
    _form: CallFormat | None = None
    _text_marks: ContentStage | None = None
    _calls: CallStage | None = None
    _start: constraints.Constraint | None = None
    _deferred = False  # the answer's grammar begins after its reasoning
    _raw = ""  # text of the runs, as far as a switch may need it
    _known = 0  # length of _raw before the current batch
    _content = 0  # characters of the answer without its reasoning
    _thinking = 0  # tokens of reasoning; a piece is a token

    def __init__(
        self,
        task: Task,
        settings: GenerationSettings,
        usage: Callable[[], Usage],
        cancel: Cancel | None = None,
    ) -> None:
        self._request = request = task.request
        self._prompt = task.prompt if isinstance(task.prompt, str) else ""
        self._native = native = task.backend_templates
        reasoning = request.reasoning_format or settings.reasoning
        judge = None
        if not task.is_unconstrained:
            self._bind(task, settings)
            judge = judged(request, cancel)
        parses = request.is_chat and (task.described or not native)
        syntax = syntax_of(task)
        if parses and self._calls is None and (whole := syntax.calls) and whole.reads_reasoning:
            self._calls = CallStage(whole, {}, settings.new_id, free=False, prompt=self._prompt)
        splits = self._deferred or not (self._calls and self._calls.reads_reasoning)
        if parses and splits and (reasoning != "raw" or self._deferred):
            marks = self._form.opening if self._form is not None else ()
            self._thoughts = ThoughtStage(self._prompt, syntax.reasoning, marks)
        self._content_opening = syntax.content[0]
        if parses and any(syntax.content) and not (self._calls and self._calls.reads_reasoning):
            self._text_marks = ContentStage(*syntax.content)
        self._rest: list[Stage] = []
        if native and self._calls is None:
            self._rest.append(NewIds(settings.new_id))
        if request.tools and constraints.callable_tools(request):
            most = constraints.most_calls(request)
            self._rest.append(CallLimit(most, usage))
        if task.stop_strings:
            self._rest.append(StopStage(task.stop_strings, usage))
        if task.described and self._calls is not None:
            judges = call_judges(request, cancel)
            self._rest.append(CallsStage(judges, must=constraints.must_call(request)))
        if judge is not None:
            self._rest.append(ValidationStage(judge, request.stop, holds=task.described))
        parts = self._thoughts is not None or (self._calls and self._calls.reads_reasoning)
        if reasoning == "none" or (reasoning == "raw" and parts):
            self._rest.append(InlineStage(syntax.inline))
        self.idle = self._thoughts is None and self._has_nothing_to_do()
        self.text_passes = self.idle or (
            native and self._calls is None and all(type(s) is NewIds for s in self._rest)
        )

    def _bind(self, task: Task, settings: GenerationSettings) -> None:
        """Set up the call parser and the constraint of the answer."""
        request = task.request
        self._form = form = form_of(task)
        self._start = start_bound(task)
        self._deferred = task.thinks and self._start is not None and not task.backend_templates
        if form is not None:
            self._calls = CallStage(
                form,
                {tool.name: tool.parameters for tool in constraints.callable_tools(request)},
                settings.new_id,
                free=self._start is None and not task.described,
                must=constraints.must_call(request),
                prompt=self._prompt,
            )

    @property
    def thought(self) -> bool:
        """Whether reasoning was separated from the text so far."""
        return self._thinking > 0

    def _has_nothing_to_do(self) -> bool:
        """Whether everything but reasoning passes unchanged."""
        stages = self._calls or self._text_marks or self._rest
        return not (stages or self._native or self._thinking)

    def feed(self, batch: Batch) -> Batch:
        if self.idle:
            return batch
        thoughts, calls = self._thoughts, self._calls
        if calls is not None or self._deferred:
            self._known = len(self._raw)
            self._raw += "".join(e.text for e in batch if isinstance(e, TextDelta))
        if self._native:
            self._thinking += sum(isinstance(e, ReasoningDelta) for e in batch)
        if thoughts is not None:
            came, thinking = batch, not thoughts.over
            batch = thoughts.feed(batch)
            if thinking and ReasoningDelta in map(type, batch):
                self._thinking += sum(e.pieces for e in came if isinstance(e, TextDelta))
            if self._deferred:
                # This run has no grammar, so none of its text belongs to the answer. A batch may
                # contain the end of the reasoning and the end of the run, for whatever reason.
                batch = [e for e in batch if not isinstance(e, TextDelta)]
                if thoughts.over or _ended_by_itself(came):
                    assert self._start is not None
                    self._deferred = False
                    before = self._thought()
                    if self._start.schema is not None and not self._start.tools:
                        before += self._content_opening
                    self.switch = self._switch_behind(before, self._start)
                    return self._run_stages([e for e in batch if not isinstance(e, Finished)])
            elif thoughts.passes:
                self._thoughts = None
                self.idle = self._has_nothing_to_do()
        if self._text_marks is not None:
            batch = self._text_marks.feed(batch)
        if calls is not None:
            came = batch
            self._content += sum(len(e.text) for e in came if isinstance(e, TextDelta))
            batch = calls.feed(came)
            if calls.reads_reasoning and ReasoningDelta in map(type, batch):
                self._thinking += sum(e.pieces for e in came if isinstance(e, TextDelta))
            opened = calls.opened
            if opened is not None:
                assert self._form is not None
                held = self._text_marks.held if self._text_marks is not None else 0
                kept = len(self._raw) - held - (self._content - opened.keep)
                self.switch = self._switch_behind(
                    self._raw[:kept],
                    constraints.calls_of(self._request, self._form, opened.frame_so_far),
                    opened.written,
                )
        return self._run_stages(batch)

    def _switch_behind(
        self, text: str, bound: constraints.Constraint, begun: str = ""
    ) -> GrammarSwitch:
        known = self._raw[: self._known]
        fresh = text[len(known) :] if text.startswith(known) else ""
        return GrammarSwitch(text, bound, fresh, begun)

    def on_switched(self, tokens: int) -> Batch:
        """Handle the start of the run that `switch` requested, after so many tokens."""
        switch, self.switch = self.switch, None
        assert switch is not None, "no run was needed"
        self._thoughts = None
        self._thinking = min(self._thinking, tokens)
        if self._calls is not None and (switch.begun or self._calls.reads_reasoning):
            before = self._prompt + switch.text.removesuffix(switch.begun)
            return self._run_stages(self._calls.bind(switch.begun, before))
        return []

    def on_limit(self, finished: Finished) -> Batch:
        """Handle the end of the answer because no token is left for the requested run."""
        self.switch = None
        batch: Batch = [finished]
        if self._calls is not None:
            self._calls.bind("")
            batch = self._calls.feed(batch)
        return self._run_stages(batch)

    def _run_stages(self, batch: Batch) -> Batch:
        for stage in self._rest:
            batch = stage.feed(batch)
            if stage.ended:
                self.ended = True
        if self._thinking and batch and isinstance(batch[-1], Finished):
            usage = msgspec.structs.replace(batch[-1].usage, reasoning=self._thinking)
            batch[-1] = msgspec.structs.replace(batch[-1], usage=usage)
        return batch

    def _thought(self) -> str:
        """The reasoning as the model wrote it, up to its closing tag; "" if there is none."""
        assert self._thoughts is not None
        tags = self._thoughts.tags(self._raw)
        if tags is None:
            return ""
        before, closing, _ = self._raw.partition(tags[1])
        end = "\n\n" if tags[1].startswith("</") else ""
        return f"{before}{closing or tags[1]}{end}"


def start_bound(task: Task) -> constraints.Constraint | None:
    """The constraint that applies from the beginning of the answer, None for none."""
    if task.is_unconstrained:
        return None
    return constraints.from_start(task.request, form_of(task))


def _ended_by_itself(batch: Batch) -> bool:
    last = batch[-1] if batch else None
    return isinstance(last, Finished) and last.reason != "length"
