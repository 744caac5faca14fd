"""Splits a model's reasoning from its answer while both stream.

An opening tag is recognised only at the beginning of the reply or directly after a closing tag, so
an answer that mentions ``<think>`` stays whole. Some models forget the closing tag before they call
a tool, so a mark of a call that begins a line ends the reasoning as well. White space before an
opening tag and around the reasoning, and newlines after the closing tag are removed.
"""

from __future__ import annotations

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
)
from ..formats.base import opening_tag
from ..formats.reader import CallReader, Wait

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


def opened_by(prompt: str, tag_pairs: tuple[Tags, ...] = REASONING_TAGS) -> Tags | None:
    """The tags whose opening tag ends the prompt, so that the model continues inside the
    reasoning."""
    end = prompt[-_PROMPT_END:].rstrip()
    return next((tags for tags in tag_pairs if end.endswith(tags[0])), None)


@lru_cache(256)
def _first(tag_pairs: tuple[Tags, ...], content: str) -> frozenset[str]:
    return frozenset(tag[:1] for tag in (*chain.from_iterable(tag_pairs), content))


INLINE: Tags = ("<think>\n", "\n</think>\n\n")
"""Around reasoning in the text, for models of these tags or of none that is known."""


class ThoughtStage:
    """Turns reasoning into ReasoningDelta, without logprobs.

    `known` are the tags of the model's reasoning, () if they are not known; `calls` the marks of
    calls, which end it as well; `content` marks around the text, which are removed. `over`: the
    reasoning has ended, or there is none. `passes`: the rest of the text is the answer."""

    ended = over = passes = False
    opened: Tags | None = None
    _parser: CallReader | None = None  # once there is text that may be reasoning

    def __init__(
        self,
        prompt: str = "",
        known: tuple[Tags, ...] = (),
        calls: tuple[str, ...] = (),
        content: tuple[str, str] = ("", ""),
    ) -> None:
        self._tags = known
        self._known = known or REASONING_TAGS
        self._content = content
        self._calls = calls
        if prompt:
            self.opened = opened_by(prompt, self._known)

    def tags(self, text: str) -> Tags | None:
        """The tags of the reasoning that a reply with this text begins with."""
        begins = text.lstrip()
        written = (pair for pair in self._known if begins.startswith(pair[0]))
        return self.opened or next(written, None)

    @property
    def held(self) -> int:
        return self._parser.unread if self._parser is not None else 0

    @property
    def is_inside(self) -> bool:
        """Whether the text so far ends within reasoning."""
        return self._parser is not None and not self.over

    def feed(self, batch: Batch) -> Batch:
        if not self.reads(batch):
            return batch
        assert self._parser is not None
        out: Batch = []
        for at, event in enumerate(batch, 1):
            if isinstance(event, TextDelta):
                for piece in self._parser.feed(event.text):
                    if isinstance(piece, TextDelta):
                        whole = piece.text == event.text
                        piece = event if whole else TextDelta(piece.text, event.logprobs)
                    out.append(piece)
                if not event.text and event.logprobs:
                    out.append(event)
                if self.passes:
                    return out + batch[at:]
                continue
            if type(event) in LAST:
                over = self.over
                out += self._parser.close()
                self.over = over  # what is cut off may have gone on as reasoning
            out.append(event)
        return out

    def reads(self, batch: Batch) -> bool:
        """Whether reasoning may begin in a batch, or did before. Notes if the answer begins
        instead."""
        if self._parser is not None:
            return not self.passes
        for event in () if self.over else batch:
            if type(event) is TextDelta:
                text = event.text.lstrip()
                if self.opened or not text or text[0] in _first(self._known, self._content[0]):
                    self._parser = CallReader(self._read)
                    return True
                self.over = self.passes = True
                break
        return False

    def _read(self, reader: CallReader) -> Wait:
        openings = {opening: closing for opening, closing in reversed(self._known)}
        closing = self.opened[1] if self.opened else ""
        # An answer without reasoning may begin with the closing tag.
        closings = tuple(closing for _, closing in self._tags if closing)
        if not closing and (yield from opening_tag(reader, closings)):
            yield from reader.spaces()
        while True:
            # A model may repeat the tag that its prompt ended with.
            tag = yield from opening_tag(reader, tuple(openings))
            if tag is None and not closing:
                break
            if tag is not None:
                closing = openings[tag]
            yield from reader.spaces()
            reader.begin_text(ReasoningDelta)
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
