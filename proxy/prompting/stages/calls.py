"""The stage that parses tool calls from text and detects where a call begins in free text.

Logprobs are reported for text only; the tokens of a call have none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from ...core.events import (
    Batch,
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
)
from ...core.usage import Usage
from ..constraints import head
from ..formats import CallArguments, CallFormat, CallStart, Piece, ReasoningPiece, TextPiece, Tools

_MARK = re.compile(r"</?[^<>\s=\[\]\x00-\x1f]+>|\[/?[A-Z_]+\]|<\w+(?=\s)|｜[^｜\s]+｜")


class CallOpening(Struct, frozen=True):
    """Where a call began: `keep` characters of the text remain. They end with `written`, the call
    so far, which means `frame_so_far`, a part of the call in the form of its shape."""

    keep: int
    written: str
    frame_so_far: str


class NewIds:
    """Replaces the ids of calls from a backend by our own."""

    ended = False

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id

    def feed(self, batch: Batch) -> Batch:
        return [
            msgspec.structs.replace(event, id=self._new_id())
            if isinstance(event, ToolCallDelta) and event.name
            else event
            for event in batch
        ]


class CallStage:
    """Parses text into TextDelta and ToolCallDelta, and into ReasoningDelta if the format reads the
    whole answer, which continues `prompt`.

    If `free`, it stops where a call begins, described by `opened`; the answer then continues under
    a grammar from `constraints`. A mark that the model may only be quoting does not stop it: the
    parser decides in the end.

    If the token limit ends the answer inside a call, the call's frame is not sent as text. The
    arguments so far are sent, and so is the tool's name if one tool `must` be called."""

    ended = False

    def __init__(
        self,
        form: CallFormat,
        tools: Tools,
        new_id: Callable[[], str],
        *,
        free: bool,
        must: bool = False,
        prompt: str = "",
    ) -> None:
        self._form = form
        self._tools = tools
        self._new_id = new_id
        free = free and form.binds
        self._marks = _marks(form) if free else {}
        self._parser = form.parser(tools, prompt, self._marks)
        self._pending: list[TokenLogprob] = []
        self._free = free
        self._text = ""  # of a free run
        self._must = self._inside = must
        self.calls = 0
        self.opened: CallOpening | None = None

    @property
    def reads_reasoning(self) -> bool:
        """Whether no other stage must have split the text."""
        return self._form.reads_reasoning

    def bind(self, text: str, prompt: str = "") -> Batch:
        """Continues under a grammar after `text`, the beginning of a call behind `prompt`."""
        self.opened = None
        self._free = False
        self._inside = True
        self._parser = self._form.parser(self._tools, prompt)
        self._pending.clear()
        pieces = self._parser.feed(text)
        said = (TextPiece, ReasoningPiece)  # of a format whose calls have no mark of their own
        return self._events([piece for piece in pieces if not isinstance(piece, said)])

    def feed(self, batch: Batch) -> Batch:
        out: Batch = []
        for event in batch:
            if self.opened is not None:
                break
            if isinstance(event, TextDelta):
                self._pending += event.logprobs
                pieces = self._parser.feed(event.text)
                if self._free:
                    self._text += event.text
                    out += self._open(pieces)
                else:
                    out += self._events(pieces)
                continue
            if isinstance(event, (Finished, Failed)):
                cut = self._inside and isinstance(event, Finished) and event.reason == "length"
                out += self._cut() if cut else self._events(self._parser.close())
                if self._pending:
                    out.append(TextDelta("", self._logprobs()))
                if isinstance(event, Finished) and event.reason == "stop" and self.calls:
                    event = msgspec.structs.replace(event, reason="tool_calls")
            out.append(event)
        return out

    def _cut(self) -> Batch:
        """The end of an answer cut off inside a call."""
        pieces: list[Piece] = [p for p in self._parser.close() if not isinstance(p, TextPiece)]
        self._pending.clear()
        out = self._events(pieces)
        if self._must and not self.calls and len(self._tools) == 1:
            self.calls += 1
            out.append(ToolCallDelta(0, self._new_id(), *self._tools))
        return out

    def _open(self, pieces: list[Piece]) -> Batch:
        """Free text up to a mark, or until the parser reads the name of a tool."""
        mark = self._parser.reader.opened
        if mark is not None:
            self.opened = CallOpening(mark.end, mark.mark, self._marks[mark.mark])
            return self._events(pieces)
        start = next((p for p in pieces if isinstance(p, CallStart)), None)
        if start is None:
            return self._events(pieces)
        if self._parser.reader.found_unmeant or start.name not in self._tools:
            self._free = False
            return self._events(pieces)
        reader = self._parser.reader
        at, until = reader.call_at, reader.arguments_at
        if self._text[until : until + 1] != "{":
            self._free = False  # the arguments are not JSON, or were written before the name
            return self._events(pieces)
        whole = head(self._form.shape, start.name)
        self.opened = CallOpening(until, self._text[at:until], whole)
        return self._events(pieces[: pieces.index(start)])

    def _events(self, pieces: Sequence[Piece]) -> Batch:
        out: list[Event] = []
        for piece in pieces:
            if isinstance(piece, TextPiece):
                out.append(TextDelta(piece.text, self._logprobs()))
            elif isinstance(piece, ReasoningPiece):
                self._pending.clear()
                out.append(ReasoningDelta(piece.text))
            elif isinstance(piece, CallStart):
                self._pending.clear()
                self.calls += 1
                id = f"{self._new_id()}-{piece.id}" if piece.id else self._new_id()
                out.append(ToolCallDelta(piece.index, id, piece.name))
            elif isinstance(piece, CallArguments):
                self._pending.clear()
                out.append(ToolCallDelta(piece.index, arguments=piece.text))
        return out

    def _logprobs(self) -> tuple[TokenLogprob, ...]:
        tokens, self._pending = tuple(self._pending), []
        return tokens


def special_marks(form: CallFormat) -> tuple[str, ...]:
    """The marks of a format that may be special tokens. A current server omits special tokens from
    the text unless they are listed in the request."""
    shape = form.shape
    texts = [*form.opening, shape.prefix, shape.before_name, shape.after_name, shape.suffix]
    texts += [shape.separator, shape.end, *form.reasoning, *form.content]
    if shape.tagged is not None:
        tags = shape.tagged
        texts += [tags.before_key, tags.after_key, tags.after_value, tags.text_after_key]
    marks = (mark for text in texts for mark in _MARK.findall(text))
    return tuple(dict.fromkeys((*marks, *form.tokens)))


def _marks(form: CallFormat) -> dict[str, str]:
    """The marks at which free text may stop, each with the part of the call's frame that it
    implies.

    Only tags: "Action:" may occur in any text, so such a format is bound later, once its parser has
    read the name of a tool."""
    shape = form.shape
    frame = shape.prefix + shape.before_name
    marks = {}
    for mark in form.opening:
        at = frame.find(mark)
        if mark[0] not in "<[>":
            continue
        if at >= 0:
            marks[mark] = frame[: at + len(mark)]
        elif mark == shape.separator:
            marks[mark] = ""
    return marks


class CallLimit:
    """Passes calls until the model has written `most`, then ends the answer: a grammar bounds the
    number of calls, but not on every backend, and small models write the same call without end."""

    def __init__(self, most: int, usage: Callable[[], Usage]) -> None:
        self.ended = False
        self._left = most
        self._usage = usage

    def feed(self, batch: Batch) -> Batch:
        for at, event in enumerate(batch):
            if isinstance(event, ToolCallDelta) and event.name:
                if not self._left:
                    self.ended = True
                    return [*batch[:at], Finished(reason="tool_calls", usage=self._usage())]
                self._left -= 1
        return batch
