"""Stages that split a model's reasoning from its answer, or put it back into the text."""

from __future__ import annotations

from ..core.events import LAST, Batch, Failed, Progress, ReasoningDelta, TextDelta, TokenDetail
from .reasoning import KIN, ReasoningSplitter, Tags, opened_by


class ThoughtStage:
    """Turns reasoning into ReasoningDelta. Reasoning tokens have no logprobs: those are reported
    for the answer only."""

    ended = False

    def __init__(self, prompt: str = "") -> None:
        self.opened = opened_by(prompt)
        self._splitter = ReasoningSplitter(opened=self.opened)

    @property
    def over(self) -> bool:
        """Whether the reasoning has ended or there is none."""
        return self._splitter.over

    @property
    def passes(self) -> bool:
        """Whether the rest of the text is the answer."""
        return self._splitter.passes

    def tags(self, text: str) -> Tags | None:
        """The tags of the reasoning that a reply with this text begins with; None without
        reasoning."""
        begins = text.lstrip()
        return self.opened or next((pair for pair in KIN if begins.startswith(pair[0])), None)

    def feed(self, batch: Batch) -> Batch:
        out: Batch = []
        splitter = self._splitter
        for at, event in enumerate(batch, 1):
            if isinstance(event, TextDelta):
                for kind, text in splitter.feed(event.text):
                    if kind == "reasoning":
                        out.append(ReasoningDelta(text))
                    else:
                        whole = text == event.text
                        out.append(event if whole else TextDelta(text, event.logprobs))
                if not event.text and event.logprobs:
                    out.append(event)
                if splitter.passes:
                    return out + batch[at:]
                continue
            if type(event) in LAST:
                for kind, text in splitter.close():
                    out.append(ReasoningDelta(text) if kind == "reasoning" else TextDelta(text))
            out.append(event)
        return out


class InlineStage:
    """Puts reasoning back into the text, between tags."""

    ended = False

    def __init__(self) -> None:
        self._inside = False

    def feed(self, batch: Batch) -> Batch:
        out: Batch = []
        for event in batch:
            if isinstance(event, ReasoningDelta):
                out.append(TextDelta(event.text if self._inside else f"<think>\n{event.text}"))
                self._inside = True
                continue
            if self._inside and not isinstance(event, (Failed, Progress, TokenDetail)):
                self._inside = False
                out.append(TextDelta("\n</think>\n\n"))
            out.append(event)
        return out
