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
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from ..backends.driver import Capabilities
from ..compiling import judged
from ..core.events import (
    LAST,
    Batch,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Withdrawn,
)
from ..core.task import Task
from ..core.usage import Usage
from ..errors import CharacterCut
from ..prompting import constraints
from ..prompting.formats.base import CallFormat
from ..prompting.profile.derive import AnswerSyntax
from ..prompting.stages.calls import CallLimit, CallStage, NewIds
from ..prompting.stages.endings import (
    InvalidOutput,
    Stage,
    StopStage,
    ValidationStage,
    Validator,
)
from ..prompting.stages.prompted_output import CallsStage
from ..prompting.stages.reasoning import InlineStage, ThoughtStage
from ..referee import NEVER, Place
from ..runtime.cancel import Cancel
from .adapt import UNKNOWN, call_judges

Reasoning = Literal["deepseek", "none", "raw"]

MAX_MEDIA = 20 << 20  # bytes of an image or sound: a photo of a telephone has a quarter of that
MAX_CALLS = 8  # models that loop repeat a call for ever; agents that work use two or three at once


class GenerationSettings(Struct, frozen=True):
    new_id: Callable[[], str]  # of tool calls
    # How often a document that failed validation is written again, if the client has not seen it.
    json_retries: int = 1
    reasoning: Reasoning = "deepseek"
    max_media: int = MAX_MEDIA
    max_parallel_calls: int = MAX_CALLS  # in an answer to a request that does not say


class GrammarSwitch(Struct, frozen=True):
    """A run that continues after the prompt and `text`, under the grammar of `bound`."""

    text: str
    bound: constraints.Constraint
    fresh: str  # the end of `text` that came in the last batch: its tokens are not counted yet
    begun: str = ""  # the beginning of the open call, for the call parser


class Generation(Struct, eq=False):
    """The events of one choice. Raises CharacterCut if the answer is to echo a prompt that is not
    valid text."""

    task: Task
    caps: Capabilities  # of the current backend
    settings: GenerationSettings
    usage: Callable[[], Usage]  # the token counts so far
    prompt_text: Callable[[], str]  # the prompt as text
    find_budget: Callable[[], int]  # of reasoning, in tokens
    cancel: Cancel
    tries: int = 0  # how often the answer was written again

    later: bool = False  # the current run began after a part of the answer
    holds: bool = False  # nothing is passed on before the end
    idle: bool = False  # from now on, batches pass unchanged
    # Batches of text alone do; other events of a backend that parses its answers itself may need a
    # stage.
    text_passes: bool = False
    # After both of these, the rest of the current run is not needed.
    ended: bool = False  # a stage has ended the answer
    switch: GrammarSwitch | None = None  # the run that the answer needs next
    retry: bool = False  # the answer is to be written again, by `again`; then
    wrong: str = ""  # is its text, if its form was described
    fault: str = ""  # and this was wrong

    native: bool = False
    only_stages: bool = False
    rest: list[Stage] = []
    thoughts: ThoughtStage | None = None
    form: CallFormat | None = None
    calls: CallStage | None = None
    start: constraints.Constraint | None = None
    deferred: bool = False  # the answer's grammar begins after its reasoning
    held: Batch = []
    written: list[str] = []  # the text so far, if it may be wrong
    to_echo: str | None = None
    raw: str = ""  # text of the runs, as far as a switch may need it
    before: int = 0  # length of `raw` before the current batch
    content: int = 0  # characters of the answer without its reasoning
    thinking: int = 0  # tokens of reasoning; a piece is a token
    budget: int = NEVER  # of them
    written_now: type | None = None  # of the last event of a backend that parses its answers
    beyond: int = 0  # bytes of the last batch that were not read, because they are spent
    over_budget: bool = False  # it has ended because they are spent

    def __post_init__(self) -> None:
        task = self.task
        request, validator = task.request, None
        self.native = task.backend_templates
        if request.echo:
            self.to_echo = self.prompt_text()
        if not task.is_unconstrained:
            validator = judged(request, self.cancel)
            validated = task.described or validator is not None
            if request.stream:
                # A described document or call is held back until it was judged.
                bound = request.output.kind != "text" or constraints.must_call(request)
                validated = validated and task.described and bound
            self.holds = validated and self.tries < self.settings.json_retries
            self._bind()
        self._add_stages(validator)
        adds = request.echo or request.report.settings or task.max_tokens == 0
        self.only_stages = not (adds or self.holds or task.described)
        if self.thoughts is None:
            self._settle()
            if self.native and self.only_stages and self.calls is None:
                self.text_passes = all(type(stage) is NewIds for stage in self.rest)

    def _bind(self) -> None:
        task, request = self.task, self.task.request
        self.form = form = task.call_format
        self.start = start_bound(task)
        self.deferred = task.thinks and self.start is not None and not self.native
        if form is not None:
            self.calls = CallStage(
                form,
                {tool.name: tool.parameters for tool in constraints.callable_tools(request)},
                self.settings.new_id,
                free=self.start is None and not task.described,
                must=constraints.must_call(request),
                prompt=task.text,
            )

    def _add_stages(self, validator: Validator | None) -> None:
        task, settings = self.task, self.settings
        request = task.request
        reasoning = request.reasoning_format or settings.reasoning
        syntax: AnswerSyntax = task.syntax or UNKNOWN
        calls, reads_reasoning = self.calls, False
        if request.messages and (task.described or not self.native):
            if calls is None and (whole := syntax.calls) and whole.reads_reasoning:
                calls = CallStage(whole, {}, settings.new_id, free=False, prompt=task.text)
                self.calls = calls
            reads_reasoning = calls is not None and calls.reads_reasoning
            if self.deferred or (reasoning != "raw" and not reads_reasoning):
                marks = self.form.opening if self.form is not None else ()
                prompt = task.text if task.thinks else ""
                self.thoughts = ThoughtStage(prompt, syntax.reasoning, marks, syntax.content)
        if self.native and calls is None:
            self.rest.append(NewIds(settings.new_id))
        if request.tools and constraints.callable_tools(request):
            most = constraints.most_calls(request)
            self.rest.append(CallLimit(most, self.usage, streams=request.stream))
        if task.stop_strings:
            self.rest.append(StopStage(task.stop_strings, self.usage))
        if task.described and calls is not None:
            judges = call_judges(request, self.cancel)
            self.rest.append(CallsStage(judges, must=constraints.must_call(request)))
        if validator is not None:
            self.rest.append(ValidationStage(validator, request.stop, holds=task.described))
        if reasoning != "deepseek" and (
            reasoning == "none" or self.thoughts is not None or reads_reasoning
        ):
            self.rest.append(InlineStage(syntax.inline))

    def _settle(self) -> bool:
        """Note, and return, whether everything passes unchanged from now on. There is no reasoning
        any more."""
        if self.only_stages and not (self.calls or self.rest or self.native):
            self.text_passes, self.idle = True, not self.thinking  # which is counted at the end
        return self.idle

    def feed(self, batch: Batch) -> Batch:
        """Process a batch of the run. Returns the events to pass on."""
        if self.idle:
            return batch
        if self.thoughts is not None:
            if self.thoughts.reads(batch):
                batch, rest = self._within_budget(batch)
                if rest:
                    out = self.feed(batch)
                    if self.ended or self.switch is not None:
                        beyond = (len(e.text.encode()) for e in rest if type(e) is TextDelta)
                        self.beyond = sum(beyond)
                        return out
                    return out + self.feed(rest)
            elif self.thoughts.passes and not self.deferred:
                self.thoughts = None
                if self._settle():
                    return batch
        if self.only_stages:
            return self._staged(batch)
        if self.holds and self.task.described:
            self.written += [event.text for event in batch if isinstance(event, TextDelta)]
        return self._pass_on(self._staged(batch))

    def _within_budget(self, batch: Batch) -> tuple[Batch, Batch]:
        """What the budget of reasoning allows of a batch, and the rest. One read of a fast server
        has many tokens."""
        if self.budget == NEVER:
            self.budget = self.find_budget()
        left = max(1, self.budget - self.thinking)
        for at, event in enumerate(batch, 1):
            if type(event) is TextDelta and not event.logprobs:
                if event.pieces > left:
                    size = len(event.text) * left // event.pieces
                    within = TextDelta(event.text[:size], (), left)
                    beyond = TextDelta(event.text[size:], (), event.pieces - left)
                    return [*batch[: at - 1], within], [beyond, *batch[at:]]
                left -= event.pieces
                if not left:
                    return batch[:at], batch[at:]
        return batch, []

    def _staged(self, batch: Batch) -> Batch:
        thoughts, calls = self.thoughts, self.calls
        if calls is not None or self.deferred:
            self.before = len(self.raw)
            self.raw += "".join(e.text for e in batch if isinstance(e, TextDelta))
        if self.native and batch:
            self.thinking += sum(isinstance(e, ReasoningDelta) for e in batch)
            self.written_now = type(batch[-1])
        if thoughts is not None:
            came, over = batch, thoughts.over
            batch = thoughts.feed(batch)
            if batch is not came and not over and ReasoningDelta in map(type, batch):
                self.thinking += sum(e.pieces for e in came if isinstance(e, TextDelta))
                if self.thinking >= self.budget or self.cancel.hurried:
                    goes_on = not thoughts.over and type(came[-1]) not in LAST
                    self.ended = self.over_budget = goes_on
            if self.deferred:
                # This run has no grammar, so none of its text belongs to the answer. A batch may
                # contain the end of the reasoning and the end of the run, for whatever reason.
                batch = [e for e in batch if not isinstance(e, TextDelta)]
                last = came[-1] if came else None
                if thoughts.over or (isinstance(last, Finished) and last.reason != "length"):
                    assert self.start is not None
                    self.deferred = False
                    before = self._thought()
                    if self.start.schema is not None and not self.start.tools:
                        before += (self.task.syntax or UNKNOWN).content[0]
                    self.switch = self._switch_behind(before, self.start)
                    return self._run_stages([e for e in batch if not isinstance(e, Finished)])
        if calls is not None:
            came = batch
            self.content += sum(len(e.text) for e in came if isinstance(e, TextDelta))
            batch = calls.feed(came)
            if calls.reads_reasoning and ReasoningDelta in map(type, batch):
                self.thinking += sum(e.pieces for e in came if isinstance(e, TextDelta))
            opened = calls.opened
            if opened is not None:
                assert self.form is not None
                held = self.thoughts.held if self.thoughts is not None else 0
                size = len(self.raw) - held - (self.content - opened.keep)
                self.switch = self._switch_behind(
                    self.raw[:size],
                    constraints.calls_of(self.task.request, self.form, opened.frame_so_far),
                    opened.written,
                )
        return self._run_stages(batch) if self.rest or self.thinking else batch

    def _switch_behind(
        self, text: str, bound: constraints.Constraint, begun: str = ""
    ) -> GrammarSwitch:
        before = self.raw[: self.before]
        fresh = text[len(before) :] if text.startswith(before) else ""
        return GrammarSwitch(text, bound, fresh, begun)

    def on_switched(self, tokens: int) -> Batch:
        """Handle the start of the run that `switch` requested, after so many tokens."""
        switch, self.switch = self.switch, None
        assert switch is not None, "no run was needed"
        self.later = True
        self.thoughts = None
        self.thinking = min(self.thinking, tokens)
        if self.calls is None or not (switch.begun or self.calls.reads_reasoning):
            return []
        before = self.task.text + switch.text.removesuffix(switch.begun)
        return self._pass_on(self._run_stages(self.calls.bind(switch.begun, before)))

    def on_limit(self, finished: Finished) -> Batch:
        """Handle the end of the answer because no token is left for another run."""
        out: Batch = [] if self.switch is not None else self.feed([finished])
        if self.switch is None:
            return out
        self.switch = None
        batch: Batch = [finished]
        if self.calls is not None:
            self.calls.bind("")
            batch = self.calls.feed(batch)
        return out + self._pass_on(self._run_stages(batch))

    def again(self) -> Generation:
        return self._other(self.tries + 1)

    def _other(self, tries: int) -> Generation:
        callbacks = self.usage, self.prompt_text, self.find_budget
        common = (self.task, self.caps, self.settings, *callbacks, self.cancel)
        return Generation(*common, tries=tries, later=True, budget=self.budget)

    # for the referee

    @property
    def in_thoughts(self) -> bool:
        """Whether the text so far ends within reasoning."""
        if self.deferred or self.written_now is ReasoningDelta:
            return True
        return self.thoughts is not None and self.thoughts.is_inside

    @property
    def place(self) -> Place:
        """Where the text so far ends."""
        task, calls = self.task, self.calls
        if self.in_thoughts:
            return "thoughts"
        is_open = calls is not None and calls.calls > 0  # the text may be that of a call
        is_open = is_open or self.written_now is ToolCallDelta
        has_grammar = self.start is not None or bool(task.sampling.get("grammar"))
        is_document = task.request.output.kind != "text"
        return "bound" if is_open or has_grammar or is_document or self.holds else "text"

    def close_thoughts(self, whole: str, head: str) -> tuple[str, Batch]:
        """End the reasoning behind `head`, the beginning of `whole` that remains. Returns the text
        that ends it and the events; a document may need a run of its own, as `switch` says."""
        assert self.thoughts is not None
        self.ended = self.over_budget = False
        tags = self.thoughts.tags(whole)
        if tags is None:  # no reasoning, although only a document may follow it
            return "", self.feed([Finished(reason="stop", usage=self.usage())])
        if self.raw:
            self.raw = head
        end = f"\n{tags[1]}\n\n" if tags[1].startswith("</") else tags[1]
        out = self.feed([TextDelta(end, (), 0)])
        if not self.task.request.stream and len(whole) > len(head):
            less = Withdrawn(len(whole.rstrip()) - len(head.rstrip()), reasoning=True)
            (self.held if self.holds else out).append(less)
        return end, out

    def end(self, reason: FinishReason, withdrawn: int = 0) -> Batch:
        out = self.feed([Finished(reason=reason, usage=self.usage())])
        if withdrawn and not self.task.request.stream:
            out.insert(-1, Withdrawn(withdrawn))
        return out

    def mended(self, withdrawn: int) -> tuple[Generation, Batch]:
        """The events of a run that continues the text without its last characters, and those of
        the run before that are not passed on yet."""
        out = self.end("stop", withdrawn)[:-1]
        other = self._other(self.tries)
        other.thoughts, other.to_echo, other.thinking = None, None, self.thinking
        other._settle()
        return other, out

    def _run_stages(self, batch: Batch) -> Batch:
        for stage in self.rest:
            batch = stage.feed(batch)
            if stage.ended:
                self.ended = True
        if self.thinking and batch and isinstance(batch[-1], Finished):
            usage = replace(batch[-1].usage, reasoning=self.thinking)
            batch[-1] = replace(batch[-1], usage=usage)
        return batch

    def _thought(self) -> str:
        """The reasoning as the model wrote it, up to its closing tag; "" if there is none."""
        assert self.thoughts is not None
        tags = self.thoughts.tags(self.raw)
        if tags is None:
            return ""
        before, closing, _ = self.raw.partition(tags[1])
        end = "\n\n" if tags[1].startswith("</") else ""
        return f"{before}{closing or tags[1]}{end}"

    def _pass_on(self, batch: Batch) -> Batch:
        if self.only_stages:
            return batch
        if self.task.max_tokens == 0:
            batch = _silent(batch)
        if self.task.described and batch and type(batch[-1]) is Failed:
            batch = [*batch[:-1], self._explained(batch[-1])]
        if self.task.request.report.settings and batch and type(batch[-1]) is Finished:
            batch[-1] = self._described(batch[-1])
        if self.to_echo is not None and batch:
            batch.insert(1, TextDelta(self.to_echo))
            self.to_echo = None
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
        self.held += batch
        last = batch[-1] if batch else None
        if type(last) not in LAST:
            return []
        if isinstance(last, Failed) and isinstance(last.error, InvalidOutput):
            self.retry, self.fault, self.wrong = True, str(last.error), "".join(self.written)
        return [] if self.retry else self.held

    def _described(self, finished: Finished) -> Finished:
        """Add the settings and the prompt to the end: those that the backend reported, otherwise
        those it was sent. The client's limits replace ours, and no path of the backend is shown."""
        request = self.task.request
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
                prompt = self.prompt_text()
            except CharacterCut:
                prompt = self.task.prompt  # the token ids, which an old server returns as well
        return replace(finished, settings=reported, prompt=prompt)


def first_run(task: Task) -> Task:
    """The task of the first run. A model that reasons first is not constrained by a grammar."""
    if task.thinks and not task.backend_templates and start_bound(task) is not None:
        sampling = {k: v for k, v in task.sampling.items() if k != "grammar"}
        return replace(task, sampling=sampling)
    return task


def later_run(task: Task, text: str, left: int) -> Task:
    """The task of a run that continues after `text`, for `left` more tokens."""
    assert isinstance(task.prompt, str), "only a prompt of text can be continued"
    request = task.request
    if request.report.progress:  # the prompt includes text that was written already
        report = replace(request.report, progress=False)
        request = replace(request, report=report)
    breaks = (len(task.prompt) + at for at in task.guard.breaks(text))
    return replace(
        task,
        request=request,
        prompt=task.prompt + text,
        breaks=(*task.breaks, *breaks),
        max_tokens=left,
    )


def start_bound(task: Task) -> constraints.Constraint | None:
    """The constraint that applies from the beginning of the answer, None for none."""
    if task.is_unconstrained:
        return None
    return constraints.from_start(task.request, task.call_format)


def _silent(batch: Batch) -> Batch:
    """Remove all text, for a request for no tokens. Servers write one token nevertheless."""
    out: Batch = []
    for event in batch:
        if type(event) is Finished:
            counts = replace(event.usage, completion=0)
            out.append(replace(event, reason="length", usage=counts))
        elif type(event) is Started or type(event) is Failed:
            out.append(event)
    return out
