"""Folds an event stream into a whole answer; there is no second code path for it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from operator import attrgetter
from typing import Any, cast

from msgspec import Struct, structs

from .events import (
    Batch,
    Compacted,
    Failed,
    Finished,
    ReasoningDelta,
    Started,
    Step,
    TextDelta,
    TokenDetail,
    TokenLogprob,
    ToolCallDelta,
    Withdrawn,
)
from .request import ToolCall

Part = TextDelta | ReasoningDelta | Step | ToolCall
"""Text and reasoning are joined up to the next other part."""
_TEXT, _LOGPROBS = attrgetter("text"), attrgetter("logprobs")
_WRITTEN = (TextDelta, ReasoningDelta)


class Completion(Struct, frozen=True, kw_only=True):
    """One finished choice. `parts` is all of it in order, with the gateway's steps, each when it is
    over; the other fields are for formats that keep the kinds apart."""

    index: int
    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    logprobs: tuple[TokenLogprob, ...]
    finished: Finished
    parts: tuple[Part, ...] = ()
    tokens: tuple[int, ...] = ()
    compacted: Compacted | None = None


class Fold(Struct, eq=False):
    """Collects the events of one choice; `result()` once Finished has come."""

    index: int = 0
    finished: Finished | None = None
    compacted: Compacted | None = None
    tokens: list[int] = []
    calls: dict[int, tuple[ToolCallDelta, list[str]]] = {}
    # The parts in order: deltas of text or of reasoning, the index of a call, or a step.
    _parts: list[list[TextDelta] | list[ReasoningDelta] | int | Step] = []
    _run: list[Any] = []  # the last part if it is one of deltas
    _kind: type | None = None  # of these

    def add(self, batch: Batch) -> None:
        """Raises the error of a Failed event."""
        for event in batch:
            kind = type(event)
            if kind is self._kind:
                self._run.append(event)
            elif kind is Started:
                continue
            elif isinstance(event, _WRITTEN):
                if event.text or isinstance(event, ReasoningDelta) or event.logprobs:
                    self._run, self._kind = [event], kind
                    self._parts.append(self._run)
            elif isinstance(event, Finished):
                self.finished = event
            elif isinstance(event, ToolCallDelta):
                if event.index not in self.calls:
                    self._begin(event.index)
                self.calls.setdefault(event.index, (event, []))[1].append(event.arguments)
            elif isinstance(event, Compacted):
                self.compacted = event.after(self.compacted)
            elif isinstance(event, Withdrawn):
                shorten(self._run, event.characters)
            elif isinstance(event, TokenDetail):
                self.tokens += event.tokens
            elif isinstance(event, Step):
                if getattr(event, "over", True):
                    self._begin(event)
            elif isinstance(event, Failed):
                raise event.error

    def _begin(self, part: int | Step) -> None:
        self._parts.append(part)
        self._kind = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """What has come so far."""
        return tuple(map(self._part, self._parts))

    def result(self) -> Completion:
        assert self.finished is not None, "the stream is not finished"
        parts = self.parts
        said = [part for part in parts if isinstance(part, TextDelta)]
        return Completion(
            index=self.index,
            text="".join(map(_TEXT, said)),
            reasoning="".join([part.text for part in parts if isinstance(part, ReasoningDelta)]),
            tool_calls=tuple(map(self._call, sorted(self.calls))),
            logprobs=tuple(chain.from_iterable(map(_LOGPROBS, said))),
            finished=self.finished,
            parts=parts,
            tokens=tuple(self.tokens),
            compacted=self.compacted,
        )

    def _part(self, part: Any) -> Part:
        if isinstance(part, int):
            return self._call(part)
        if not isinstance(part, list):
            return cast(Step, part)
        if len(part) == 1:
            return cast(Part, part[0])
        text = "".join(map(_TEXT, part))
        if part and isinstance(part[0], ReasoningDelta):
            return ReasoningDelta(text)
        return TextDelta(text, tuple(chain.from_iterable(map(_LOGPROBS, part))))

    def _call(self, index: int) -> ToolCall:
        head, arguments = self.calls[index]
        return ToolCall(head.id, head.name, "".join(arguments))


def shorten(deltas: list[Any], characters: int) -> None:
    """Take so many characters off the end of deltas of text or reasoning."""
    while deltas and characters >= len(deltas[-1].text):
        characters -= len(deltas.pop().text)
    if deltas and characters:
        deltas[-1] = structs.replace(deltas[-1], text=deltas[-1].text[:-characters])


def fold(batches: Iterable[tuple[int, Batch]]) -> list[Completion]:
    """All choices of a stream of (choice, batch), in order of their index."""
    folds: dict[int, Fold] = {}
    for choice, batch in batches:
        folded = folds.get(choice)
        if folded is None:
            folded = folds[choice] = Fold(choice)
        folded.add(batch)
    return [folds[i].result() for i in sorted(folds)]
