"""The stage that parses tool calls from text and detects where a call begins in free text.

Logprobs are reported for text only; the tokens of a call have none.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec
from msgspec import Struct

from ..core.events import (
    Batch,
    Event,
    Failed,
    Finished,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
)
from .constraints import head
from .formats import CallArguments, CallFormat, CallStart, Piece, TextPiece, Tools

_MARK = re.compile(r"</?[^<>\s=]+>|\[[A-Z_]+\]")


class Opened(Struct, frozen=True):
    """Where a call began: `keep` characters of the text remain, ending with `mark` if there is one.
    `begun` is the part of the call's frame that is present once `written` is appended."""

    keep: int
    mark: str
    begun: str
    written: str


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
    """Parses text into TextDelta and ToolCallDelta. If `free`, it stops at the beginning of a call,
    described by `opened`; the answer then continues under a grammar from `constraints`.

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
    ) -> None:
        self._form = form
        self._tools = tools
        self._new_id = new_id
        self._parser = form.parser(tools)
        self._pending: list[TokenLogprob] = []
        self._marks = _marks(form) if free else {}
        self._longest = max(map(len, self._marks), default=0)
        self._free = free
        self._must = self._inside = must
        self._text = ""
        self.calls = 0
        self.opened: Opened | None = None

    def bind(self, text: str) -> Batch:
        """Continues under a grammar after `text`, the beginning of a call."""
        self.opened = None
        self._free = False
        self._inside = True
        self._parser = self._form.parser(self._tools)
        self._pending.clear()
        return self._events(self._parser.feed(text))

    def feed(self, batch: Batch) -> Batch:
        out: Batch = []
        for event in batch:
            if self.opened is not None:
                break
            if isinstance(event, TextDelta):
                self._pending += event.logprobs
                out += self._open(event.text) if self._free else self._read(event.text)
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

    def _read(self, text: str) -> Batch:
        return self._events(self._parser.feed(text))

    def _open(self, text: str) -> Batch:
        """Free text up to a mark, or until the parser reads the name of a tool."""
        before = len(self._text)
        self._text += text
        for at, mark in self._found(before):
            end = at + len(mark)
            self.opened = Opened(end, mark, self._marks[mark], "")
            return self._events(self._parser.feed(self._text[before:end]))
        pieces = self._parser.feed(text)
        start = next((p for p in pieces if isinstance(p, CallStart)), None)
        if start is None or start.name not in self._tools:
            return self._events(pieces)
        pieces = pieces[: pieces.index(start)]
        whole = head(self._form.shape, start.name)
        self.opened = Opened(self._call_at(), "", whole, whole)
        return self._events(pieces)

    def _found(self, before: int) -> list[tuple[int, str]]:
        """The earliest mark that ends after position `before`."""
        start = max(0, before - self._longest + 1)
        places = [(self._text.find(mark, start), mark) for mark in self._marks]
        return sorted(place for place in places if place[0] >= 0)[:1]

    def _call_at(self) -> int:
        """The position of the call just parsed: its mark, or else the start."""
        return max([0, *(self._text.rfind(mark) for mark in self._form.opening)])

    def _events(self, pieces: list[Piece]) -> Batch:
        out: list[Event] = []
        for piece in pieces:
            if isinstance(piece, TextPiece):
                out.append(TextDelta(piece.text, self._logprobs()))
            elif isinstance(piece, CallStart):
                self._pending.clear()
                self.calls += 1
                out.append(ToolCallDelta(piece.index, self._new_id(), piece.name))
            elif isinstance(piece, CallArguments):
                self._pending.clear()
                out.append(ToolCallDelta(piece.index, arguments=piece.text))
        return out

    def _logprobs(self) -> tuple[TokenLogprob, ...]:
        tokens, self._pending = tuple(self._pending), []
        return tokens


def special_marks(form: CallFormat) -> tuple[str, ...]:
    """The marks of a call format that may be special tokens. A current server omits special tokens
    from the text unless they are listed in the request."""
    shape = form.shape
    texts = (*form.opening, shape.prefix, shape.before_name, shape.after_name, shape.suffix)
    marks = [m for text in (*texts, shape.separator, shape.end) for m in _MARK.findall(text)]
    return tuple(dict.fromkeys(marks))


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
