"""Stages that split a model's reasoning from its answer, or put it back into the text."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.events import LAST, Batch, Failed, Progress, ReasoningDelta, TextDelta, TokenDetail
from .marks import overlap
from .reasoning import KIN, ReasoningSplitter, Tags, opened_by

INLINE: Tags = ("<think>\n", "\n</think>\n\n")
"""Around reasoning in the text, for models of these tags or of none that is known."""


class ThoughtStage:
    """Turns reasoning into ReasoningDelta. Reasoning tokens have no logprobs: those are reported
    for the answer only.

    `known` are the tags of the model's reasoning, () if they are not known; `calls` the marks of
    calls, which end it as well."""

    ended = False

    def __init__(
        self, prompt: str = "", known: tuple[Tags, ...] = (), calls: Sequence[str] = ()
    ) -> None:
        self._known = known or KIN
        self.opened = opened_by(prompt, self._known)
        self._splitter = ReasoningSplitter(self.opened, self._known, calls)

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
        written = (pair for pair in self._known if begins.startswith(pair[0]))
        return self.opened or next(written, None)

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


class ContentStage:
    """Removes the marks that some models write around the text of an answer: the opening one at its
    beginning, and then the closing one."""

    ended = False

    def __init__(self, opening: str, closing: str) -> None:
        self._marks = (opening, closing)
        self._mark = opening  # the next one, "" behind the last
        self._held = ""

    @property
    def held(self) -> int:
        """Characters of text held back."""
        return len(self._held)

    def feed(self, batch: Batch) -> Batch:
        out: Batch = []
        for event in batch:
            if isinstance(event, TextDelta) and self._mark:
                text = self._strip(event.text)
                if text or event.logprobs:
                    out.append(event if text == event.text else TextDelta(text, event.logprobs))
                continue
            if type(event) in LAST and self._held:
                out.append(TextDelta(self._held))
                self._held = ""
            out.append(event)
        return out

    def _strip(self, text: str) -> str:
        text, self._held = self._held + text, ""
        opening, closing = self._marks
        if self._mark == opening:
            begins = text.lstrip()
            if begins.startswith(opening):
                self._mark = closing
                return self._strip(begins[len(opening) :])
            if opening.startswith(begins):
                self._held = text
                return ""
            self._mark = ""
            return text
        at = text.find(closing)
        if at >= 0:
            self._mark = ""
            return text[:at] + text[at + len(closing) :]
        keep = overlap(text, (closing,))
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


class InlineStage:
    """Puts reasoning back into the text, between these tags."""

    ended = False

    def __init__(self, tags: Tags = INLINE) -> None:
        self._opening, self._closing = tags
        self._inside = False

    def feed(self, batch: Batch) -> Batch:
        out: Batch = []
        for event in batch:
            if isinstance(event, ReasoningDelta):
                out.append(TextDelta(event.text if self._inside else self._opening + event.text))
                self._inside = True
                continue
            if self._inside and not isinstance(event, (Failed, Progress, TokenDetail)):
                self._inside = False
                out.append(TextDelta(self._closing))
            out.append(event)
        return out
