"""Folds an event stream into a whole answer; there is no second code path for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import cast

from msgspec import Struct

from .events import (
    ApprovalRequested,
    Batch,
    Compacted,
    Failed,
    Finished,
    ReasoningDelta,
    Searched,
    ServerCall,
    Step,
    TextDelta,
    TokenDetail,
    TokenLogprob,
    ToolCallDelta,
    ToolsListed,
)
from .request import ToolCall

TEXT, REASONING = "text", "reasoning"


class Said(Struct, frozen=True):
    """Text between two other parts of an answer."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class Thought(Struct, frozen=True):
    """The same of reasoning."""

    text: str


Part = Said | Thought | Step | ToolCall


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


class Fold:
    """Collects the events of one choice; `result()` once Finished has come."""

    def __init__(self, index: int = 0) -> None:
        self.index = index
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.tokens: list[int] = []
        self.calls: dict[int, list[str]] = {}
        self.heads: dict[int, ToolCallDelta] = {}
        self.finished: Finished | None = None
        self.compacted: Compacted | None = None
        # What each part is, and what was there before it: pieces of text, of reasoning, logprobs.
        self._begun: list[tuple[str | int | Step, int, int, int]] = []
        self._kind: object = ""  # of the last part

    def add(self, batch: Batch) -> None:
        """Raises the error of a Failed event."""
        for event in batch:
            if isinstance(event, TextDelta):
                if self._kind != TEXT and (event.text or event.logprobs):
                    self._begin(TEXT)
                self.text.append(event.text)
                if event.logprobs:
                    self.logprobs.extend(event.logprobs)
            elif isinstance(event, Finished):
                self.finished = event
            elif isinstance(event, ReasoningDelta):
                if self._kind != REASONING:
                    self._begin(REASONING)
                self.reasoning.append(event.text)
            elif isinstance(event, ToolCallDelta):
                if event.index not in self.heads:
                    self._begin(event.index)
                self.heads.setdefault(event.index, event)
                self.calls.setdefault(event.index, []).append(event.arguments)
            elif isinstance(event, (Searched, ServerCall)):
                if event.over:
                    self._begin(event)
            elif isinstance(event, (ToolsListed, ApprovalRequested)):
                self._begin(event)
            elif isinstance(event, Compacted):
                self.compacted = event.after(self.compacted)
            elif isinstance(event, TokenDetail):
                self.tokens += event.tokens
            elif isinstance(event, Failed):
                raise event.error

    def _begin(self, kind: str | int | Step) -> None:
        self._kind = kind
        self._begun.append((kind, len(self.text), len(self.reasoning), len(self.logprobs)))

    def _parts(self) -> Iterator[Part]:
        last = "", len(self.text), len(self.reasoning), len(self.logprobs)
        for begun, following in pairwise((*self._begun, last)):
            (kind, text, thought, prob), (_, *end) = begun, following
            if kind == TEXT:
                said = "".join(self.text[text : end[0]])
                yield Said(said, tuple(self.logprobs[prob : end[2]]))
            elif kind == REASONING:
                yield Thought("".join(self.reasoning[thought : end[1]]))
            else:
                yield self._call(kind) if isinstance(kind, int) else cast(Step, kind)

    def result(self) -> Completion:
        assert self.finished is not None, "the stream is not finished"
        text, logprobs = "".join(self.text), tuple(self.logprobs)
        is_text = len(self._begun) == 1 and self._kind == TEXT  # as most answers are
        return Completion(
            index=self.index,
            text=text,
            reasoning="".join(self.reasoning),
            tool_calls=tuple(map(self._call, sorted(self.heads))) if self.heads else (),
            logprobs=logprobs,
            finished=self.finished,
            parts=(Said(text, logprobs),) if is_text else tuple(self._parts()),
            tokens=tuple(self.tokens),
            compacted=self.compacted,
        )

    def _call(self, index: int) -> ToolCall:
        head = self.heads[index]
        return ToolCall(head.id, head.name, "".join(self.calls[index]))


def fold(batches: Iterable[tuple[int, Batch]]) -> list[Completion]:
    """All choices of a stream of (choice, batch), in order of their index."""
    folds: dict[int, Fold] = {}
    for choice, batch in batches:
        folded = folds.get(choice)
        if folded is None:
            folded = folds[choice] = Fold(choice)
        folded.add(batch)
    return [folds[i].result() for i in sorted(folds)]
