"""The way of a text to events: the stages of one try, and where they ask for another run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec
from msgspec import Struct

from ..cancel import Cancel
from ..compiling import judged
from ..core.events import Batch, Finished, ReasoningDelta, TextDelta
from ..core.task import Task
from ..core.usage import Usage
from ..prompting import bind
from ..prompting.calling import CallStage, NewIds
from ..prompting.judging import JudgeStage
from ..prompting.stages import Stage, StopStage
from ..prompting.thoughts import InlineStage, ThoughtStage
from ..prompting.toolcalls import Form
from .fitting import form_of

Reasoning = Literal["deepseek", "none", "raw"]


class Manner(Struct, frozen=True):
    """How answers are made: `new_id` gives ids for calls; `json_retries` is how often a document
    that is not what was asked for is made again, where nobody has seen it yet; `max_media` is the
    size of the largest image or sound, in bytes."""

    new_id: Callable[[], str]
    json_retries: int = 1
    reasoning: Reasoning = "deepseek"
    max_media: int = 20 << 20


class Turn(Struct, frozen=True):
    """Go on behind the prompt and `text` under the grammar of `bound`; `begun` is what the reader
    of calls is to see of a call that is open. `fresh` is the end of `text` that no earlier batch
    brought: only that part's tokens are not counted yet."""

    text: str
    bound: bind.Bound
    fresh: str
    begun: str = ""


class Way:
    """The stages of one try, and where they ask for another run. `idle`: there is nothing more to
    do with what comes."""

    turn: Turn | None = None
    ended = False
    _thoughts: ThoughtStage | None = None
    _form: Form | None = None
    _calls: CallStage | None = None
    _start: bind.Bound | None = None
    _deferred = False
    _raw = ""
    _known = 0  # characters of it that earlier batches brought
    _content = 0
    _thinking = 0  # tokens of thoughts; a piece is a token

    def __init__(
        self,
        task: Task,
        manner: Manner,
        usage: Callable[[], Usage],
        cancel: Cancel | None = None,
    ) -> None:
        self._request = request = task.request
        self._native = native = task.native
        reasoning = request.reasoning_format or manner.reasoning
        judge = None
        if not task.free:
            self._bind(task, manner)
            judge = judged(request, cancel)
        if not native and request.is_chat and (reasoning != "raw" or self._deferred):
            self._thoughts = ThoughtStage(task.prompt if isinstance(task.prompt, str) else "")
        self._rest: list[Stage] = []
        if native and self._calls is None:
            self._rest.append(NewIds(manner.new_id))
        if task.cut:
            self._rest.append(StopStage(task.cut, usage))
        if judge is not None:
            stops = request.stop if request.output.kind == "text" else ()
            self._rest.append(JudgeStage(judge, stops))
        if reasoning == "none" or (reasoning == "raw" and self._thoughts is not None):
            self._rest.append(InlineStage())
        self.idle = self._thoughts is None and self._has_nothing_to_do()

    def _bind(self, task: Task, manner: Manner) -> None:
        """What reads the calls of an answer, and what binds it."""
        request = task.request
        self._form = form = form_of(task)
        self._start = start_bound(task)
        self._deferred = task.thinks and self._start is not None and not task.native
        if form is not None:
            self._calls = CallStage(
                form,
                {tool.name: tool.parameters for tool in bind.callable_tools(request)},
                manner.new_id,
                free=self._start is None,
                must=bind.must_call(request),
            )

    def _has_nothing_to_do(self) -> bool:
        """Whether all that comes goes through as it is, but for thoughts."""
        return not (self._calls is not None or self._rest or self._native or self._thinking)

    def feed(self, batch: Batch) -> Batch:
        if self.idle:
            return batch
        thoughts, calls = self._thoughts, self._calls
        if calls is not None or self._deferred:
            self._known = len(self._raw)
            self._raw += "".join(e.text for e in batch if isinstance(e, TextDelta))
        if thoughts is not None:
            came, thinking = batch, not thoughts.over
            batch = thoughts.feed(batch)
            if thinking and ReasoningDelta in map(type, batch):
                self._thinking += sum(e.pieces for e in came if isinstance(e, TextDelta))
            if self._deferred:
                # Nothing binds this run, so none of its text is the answer's. A batch may bring
                # the end of the thoughts together with the end of the run, for whatever reason.
                batch = [e for e in batch if not isinstance(e, TextDelta)]
                if thoughts.over or _ended_by_itself(came):
                    assert self._start is not None
                    self._deferred = False
                    self.turn = self._turn(self._thought(), self._start)
                    return self._through([e for e in batch if not isinstance(e, Finished)])
            elif thoughts.passes:
                self._thoughts = None
                self.idle = self._has_nothing_to_do()
        elif self._native:
            self._thinking += sum(isinstance(e, ReasoningDelta) for e in batch)
        if calls is not None:
            self._content += sum(len(e.text) for e in batch if isinstance(e, TextDelta))
            batch = calls.feed(batch)
            opened = calls.opened
            if opened is not None:
                assert self._form is not None
                lead = self._raw[: len(self._raw) - self._content]
                content = self._raw[len(lead) :]
                self.turn = self._turn(
                    lead + content[: opened.keep] + opened.written,
                    bind.calls_of(self._request, self._form, opened.begun),
                    opened.written or opened.mark,
                )
        return self._through(batch)

    def _turn(self, text: str, bound: bind.Bound, begun: str = "") -> Turn:
        known = self._raw[: self._known]
        return Turn(text, bound, text[len(known) :] if text.startswith(known) else "", begun)

    def bound(self, turn: Turn, tokens: int) -> Batch:
        """The turn was taken, behind so many tokens: read on behind what it begins with."""
        self._thoughts = None
        self._thinking = min(self._thinking, tokens)
        if self._calls is not None and turn.begun:
            return self._through(self._calls.bind(turn.begun))
        return []

    def close(self, finished: Finished) -> Batch:
        """The end, where no token is left for another run."""
        batch: Batch = [finished]
        if self._calls is not None:
            self._calls.bind("")
            batch = self._calls.feed(batch)
        return self._through(batch)

    def _through(self, batch: Batch) -> Batch:
        if self._thinking and batch and isinstance(batch[-1], Finished):
            usage = msgspec.structs.replace(batch[-1].usage, reasoning=self._thinking)
            batch[-1] = msgspec.structs.replace(batch[-1], usage=usage)
        for stage in self._rest:
            batch = stage.feed(batch)
            if stage.ended:
                self.ended = True
        return batch

    def _thought(self) -> str:
        """The thoughts as the model wrote them, to their end; "" where it wrote none."""
        assert self._thoughts is not None
        tags = self._thoughts.tags(self._raw)
        if tags is None:
            return ""
        before, closing, _ = self._raw.partition(tags[1])
        end = "\n\n" if tags[1].startswith("</") else ""
        return f"{before}{closing or tags[1]}{end}"


def start_bound(task: Task) -> bind.Bound | None:
    """What of ours binds the answer from its beginning."""
    if task.free:
        return None
    return bind.from_start(task.request, form_of(task))


def _ended_by_itself(batch: Batch) -> bool:
    last = batch[-1] if batch else None
    return isinstance(last, Finished) and last.reason != "length"
