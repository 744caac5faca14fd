"""Folds an event stream into a whole answer; there is no second code path for it."""

from __future__ import annotations

from collections.abc import Iterable

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


class Completion(Struct, frozen=True, kw_only=True):
    """One finished choice. `steps` are those of the gateway, in order, each when it is over."""

    index: int
    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    logprobs: tuple[TokenLogprob, ...]
    finished: Finished
    steps: tuple[Step, ...] = ()
    tokens: tuple[int, ...] = ()
    compacted: Compacted | None = None


class Fold:
    """Collects the events of one choice; `result()` once Finished has come."""

    def __init__(self, index: int = 0) -> None:
        self.index = index
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.steps: list[Step] = []
        self.logprobs: list[TokenLogprob] = []
        self.tokens: list[int] = []
        self.calls: dict[int, list[str]] = {}
        self.heads: dict[int, ToolCallDelta] = {}
        self.finished: Finished | None = None
        self.compacted: Compacted | None = None

    def add(self, batch: Batch) -> None:
        """Raises the error of a Failed event."""
        for event in batch:
            if isinstance(event, TextDelta):
                self.text.append(event.text)
                if event.logprobs:
                    self.logprobs.extend(event.logprobs)
            elif isinstance(event, Finished):
                self.finished = event
            elif isinstance(event, ReasoningDelta):
                self.reasoning.append(event.text)
            elif isinstance(event, ToolCallDelta):
                self.heads.setdefault(event.index, event)
                self.calls.setdefault(event.index, []).append(event.arguments)
            elif isinstance(event, (Searched, ServerCall)):
                if event.over:
                    self.steps.append(event)
            elif isinstance(event, (ToolsListed, ApprovalRequested)):
                self.steps.append(event)
            elif isinstance(event, Compacted):
                self.compacted = event.after(self.compacted)
            elif isinstance(event, TokenDetail):
                self.tokens += event.tokens
            elif isinstance(event, Failed):
                raise event.error

    def result(self) -> Completion:
        assert self.finished is not None, "the stream is not finished"
        return Completion(
            index=self.index,
            text="".join(self.text),
            reasoning="".join(self.reasoning),
            tool_calls=tuple(map(self._call, sorted(self.heads))) if self.heads else (),
            logprobs=tuple(self.logprobs),
            finished=self.finished,
            steps=tuple(self.steps),
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
