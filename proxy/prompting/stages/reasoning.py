"""Splits a model's reasoning from its answer while both stream.

Models write their reasoning first, between tags. An opening tag is recognised only at the beginning
of the reply or directly after a closing tag, so an answer that mentions ``<think>`` stays whole.
Some models forget the closing tag before they call a tool, so a mark of a call that begins a line
ends the reasoning as well. White space before an opening tag, one newline after it, one before the
closing tag and all newlines after that belong to the format and are removed, as llama-server does.
Only text that may become a tag is held back.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import lru_cache
from typing import Literal

from ...core.events import LAST, Batch, Failed, Progress, ReasoningDelta, TextDelta, TokenDetail
from ..marks import Place, first_of, overlap

Kind = Literal["reasoning", "text"]
Tags = tuple[str, str]

REASONING_TAGS: tuple[Tags, ...] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("◁think▷", "◁/think▷"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
"""Tags of families, for templates that do not tell."""

_SPACES = 256
_PROMPT_END = 128


def opened_by(prompt: str, known: tuple[Tags, ...] = REASONING_TAGS) -> Tags | None:
    """The tags whose opening tag ends the prompt, so that the model continues inside the
    reasoning."""
    end = prompt[-_PROMPT_END:].rstrip()
    for tags in known:
        if end.endswith(tags[0]):
            return tags
    return None


@lru_cache(256)
def _first(known: tuple[Tags, ...]) -> frozenset[str]:
    """The characters with which the tags begin."""
    return frozenset(opening[0] for opening, _ in known)


class ReasoningSplitter:
    """``feed`` and ``close`` return ``(kind, text)`` in order. The text of each kind does not
    depend on how the stream is cut into pieces.

    ``opened`` are the tags that the prompt already opened (see :func:`opened_by`), ``known`` those
    that the model may write, and ``calls`` the marks of calls. Once ``passes`` is set, the rest is
    text and nothing is held back."""

    __slots__ = (
        "_calls",
        "_close",
        "_first",
        "_fresh",
        "_held",
        "_known",
        "_opened",
        "_place",
        "_state",
        "passes",
    )

    def __init__(
        self,
        opened: Tags | None = None,
        known: tuple[Tags, ...] = REASONING_TAGS,
        calls: Sequence[str] = (),
    ) -> None:
        self._close = opened[1] if opened else ""
        # A model may repeat the tag that its prompt ended with.
        self._state: Literal["start", "reasoning", "closed"] = "start"
        self._opened = opened is not None
        self._known = known
        self._first = _first(known)
        self._calls = tuple(calls)
        self._place = Place() if calls else None  # in the reasoning, if calls may end it
        self._fresh = True
        self._held = ""
        self.passes = False

    @property
    def over(self) -> bool:
        """Whether the reasoning has ended or there is none."""
        return self.passes or self._state == "closed"

    def feed(self, text: str) -> list[tuple[Kind, str]]:
        """The parts of ``text`` and of the text held back that are certain now."""
        if self.passes:
            return [("text", text)] if text else []
        if (
            self._state == "reasoning"
            and not (self._held or self._fresh or self._calls)
            and "\n" not in text
            and self._close[0] not in text
        ):
            return [("reasoning", text)] if text else []
        out: list[tuple[Kind, str]] = []
        self._held += text
        while self._held and self._step(out):
            pass
        return out

    def close(self) -> list[tuple[Kind, str]]:
        """The text held back, at the end of the reply."""
        held, self._held = self._held, ""
        if not held or self._state == "closed":
            return []
        inside = self._state == "reasoning" or self._opened
        return [("reasoning" if inside else "text", held)]

    def _step(self, out: list[tuple[Kind, str]]) -> bool:
        """One change of state; False if more text is needed."""
        match self._state:
            case "start":
                return self._start(out)
            case "reasoning":
                return self._reasoning(out)
            case "closed":
                self._held = self._held.lstrip("\n")
                if self._held:
                    self._state = "start"
                return bool(self._held)

    def _text(self, out: list[tuple[Kind, str]]) -> bool:
        self.passes = True
        if self._held:
            out.append(("text", self._held))
            self._held = ""
        return False

    def _start(self, out: list[tuple[Kind, str]]) -> bool:
        rest = self._held.lstrip()
        if not rest or rest[0] in self._first:
            for opening, closing in self._known:
                if rest.startswith(opening):
                    self._held = rest[len(opening) :]
                    self._close = closing
                    self._state = "reasoning"
                    self._fresh = True
                    return True
            spaces = len(self._held) - len(rest)
            if spaces <= _SPACES and any(o.startswith(rest) for o, _ in self._known):
                return False
        if self._opened:
            self._state = "reasoning"
            return True
        return self._text(out)

    def _reasoning(self, out: list[tuple[Kind, str]]) -> bool:
        if self._fresh:
            # The newline after the opening tag; a step is only taken when there is text.
            self._fresh = False
            self._held = self._held.removeprefix("\n")
        at, call = self._held.find(self._close), self._call()
        if call >= 0 and (at < 0 or call < at):
            self._emit(out, self._held[:call].rstrip())
            self._held = self._held[call:]
            return self._text(out)
        if at >= 0:
            thought, self._held = self._held[:at], self._held[at + len(self._close) :]
            self._emit(out, thought.removesuffix("\n"))
            self._state, self._opened = "closed", False
            return bool(self._held)
        # What may become the closing tag or a call, or the white space before it.
        keep = overlap(self._held, (self._close, "\n" + self._close, *self._calls))
        ready = self._held[: len(self._held) - keep]
        if self._calls:
            ready = ready.rstrip()
        self._emit(out, ready)
        self._held = self._held[len(ready) :]
        return False

    def _call(self) -> int:
        """Where a call begins a line of the text held, -1 for nowhere."""
        start = 0
        while self._place is not None:
            at, mark = first_of(self._held[start:], self._calls)
            if not mark:
                break
            place = copy(self._place)
            place.feed(self._held[: start + at])
            if place.is_fresh and not place.is_code:
                return start + at
            start += at + len(mark)
        return -1

    def _emit(self, out: list[tuple[Kind, str]], text: str) -> None:
        if text:
            if self._place is not None:
                self._place.feed(text)
            out.append(("reasoning", text))


# Stages that split a model's reasoning from its answer, or put it back into the text.

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
        self._known = known or REASONING_TAGS
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
