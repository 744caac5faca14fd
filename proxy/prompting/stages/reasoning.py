"""Splits a model's reasoning from its answer while both stream.

An opening tag is recognised only at the beginning of the reply or directly after a closing tag, so
an answer that mentions ``<think>`` stays whole. Some models forget the closing tag before they call
a tool, so a mark of a call that begins a line ends the reasoning as well. White space before an
opening tag and around the reasoning, and newlines after the closing tag are removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

from ...core.events import (
    LAST,
    Batch,
    Failed,
    Progress,
    ReasoningDelta,
    TextDelta,
    TokenDetail,
    TokenLogprob,
)
from ..formats.base import opening_tag
from ..formats.reader import CallReader, Piece, ReasoningPiece, TextPiece, Wait

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
def _first(known: tuple[Tags, ...], content: str) -> frozenset[str]:
    return frozenset(tag[:1] for tag in (*chain.from_iterable(known), content))


INLINE: Tags = ("<think>\n", "\n</think>\n\n")
"""Around reasoning in the text, for models of these tags or of none that is known."""


class ThoughtStage:
    """Turns reasoning into ReasoningDelta, without logprobs.

    `known` are the tags of the model's reasoning, () if they are not known; `calls` the marks of
    calls, which end it as well; `content` marks around the text, which are removed. `over`: the
    reasoning has ended, or there is none. `passes`: the rest of the text is the answer."""

    ended = False

    def __init__(
        self,
        prompt: str = "",
        known: tuple[Tags, ...] = (),
        calls: Sequence[str] = (),
        content: tuple[str, str] = ("", ""),
    ) -> None:
        # An answer without reasoning may begin with the closing tag.
        self._closings = tuple(closing for _, closing in known if closing)
        self._known = known or REASONING_TAGS
        self._content = content
        self._marks = _first(self._known, content[0])
        self._calls = tuple(calls)
        self.opened = opened_by(prompt, self._known)
        self.over = self.passes = False
        self._parser: CallReader | None = None  # once there is text that may be reasoning

    def tags(self, text: str) -> Tags | None:
        """The tags of the reasoning that a reply with this text begins with."""
        begins = text.lstrip()
        written = (pair for pair in self._known if begins.startswith(pair[0]))
        return self.opened or next(written, None)

    @property
    def held(self) -> int:
        return self._parser.unread if self._parser is not None else 0

    def feed(self, batch: Batch) -> Batch:
        if self.over and self._parser is None:
            return batch
        out: Batch = []
        for at, event in enumerate(batch, 1):
            if isinstance(event, TextDelta):
                if self._parser is None:
                    begins = event.text.lstrip()
                    if begins and not self.opened and begins[0] not in self._marks:
                        self.over = self.passes = True
                        return out + batch[at - 1 :]
                    self._parser = CallReader(self._read)
                for piece in self._parser.feed(event.text):
                    whole = piece == TextPiece(event.text)
                    out += [event] if whole else _events(piece, event.logprobs)
                if not event.text and event.logprobs:
                    out.append(event)
                if self.passes:
                    return out + batch[at:]
                continue
            if type(event) in LAST and self._parser is not None:
                over = self.over
                for piece in self._parser.close():
                    out += _events(piece)
                self.over = over  # what is cut off may have gone on as reasoning
            out.append(event)
        return out

    def _read(self, reader: CallReader) -> Wait:
        openings = {opening: closing for opening, closing in reversed(self._known)}
        closing = self.opened[1] if self.opened else ""
        if not closing and (yield from opening_tag(reader, self._closings)):
            yield from reader.spaces()
        while True:
            # A model may repeat the tag that its prompt ended with.
            tag = yield from opening_tag(reader, tuple(openings))
            if tag is None and not closing:
                break
            if tag is not None:
                closing = openings[tag]
            yield from reader.spaces()
            reader.begin_text(ReasoningPiece)
            while mark := (yield from reader.text_until(self._calls, (closing,))):
                if mark == closing or not reader.is_draft:
                    break
                reader.degrade(len(mark))
            if not mark:
                return
            if mark != closing:
                reader.rewind()
                yield from reader.spaces()
                break
            closing, self.over = "", True
            while (yield from reader.skip("\n")):
                pass
        self.over = True
        reader.begin_text()
        opening, ending = self._content
        if opening and (yield from opening_tag(reader, (opening,))):
            yield from reader.text_until((), (ending,))
        self.passes = True
        reader.begin_text()
        yield from reader.text_until(())


def _events(piece: Piece, logprobs: tuple[TokenLogprob, ...] = ()) -> Batch:
    if isinstance(piece, TextPiece):
        return [TextDelta(piece.text, logprobs)]
    return [ReasoningDelta(piece.text)] if isinstance(piece, ReasoningPiece) else []


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
