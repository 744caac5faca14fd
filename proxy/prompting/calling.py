"""The stage that makes tool calls of text, and sees where a call opens in free text.

Logprobs are told of the text alone: tokens of a call have none.
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
from .bind import head
from .toolcalls import CallArguments, CallStart, Form, Piece, TextPiece, Tools

_MARK = re.compile(r"</?[^<>\s=]+>|\[[A-Z_]+\]")


class Opened(Struct, frozen=True):
    """Where a call opened in the text: `keep` characters of it stay, the last of them the `mark`,
    if there is one; `begun` is how much of a call's frame stands there when `written` is put behind
    them."""

    keep: int
    mark: str
    begun: str
    written: str


class NewIds:
    """Calls get ids of ours, whatever a server calls them."""

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
    """Text becomes TextDelta and ToolCallDelta. While `free`, it ends at the text in front of a
    call, which `opened` then tells of; `bind` goes on behind it.

    Where the budget ends inside a call, no piece of its frame is told as text; what came of its
    arguments is told, and the name where one tool `must` be called."""

    ended = False

    def __init__(
        self,
        form: Form,
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
        """A grammar holds from here on, behind `text`, the beginning of a call."""
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
        """What is left where no token is left for the rest of a call."""
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
        """Free text: up to a mark, or until the parser sees the name of a tool."""
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
        """The earliest mark that ends in the text behind `before`."""
        start = max(0, before - self._longest + 1)
        places = [(self._text.find(mark, start), mark) for mark in self._marks]
        return sorted(place for place in places if place[0] >= 0)[:1]

    def _call_at(self) -> int:
        """Where the call stands that the parser has just read: at its mark, or at the start."""
        at = max((self._text.rfind(mark) for mark in self._form.opening), default=0)
        return max(at, 0)

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


def special_marks(form: Form) -> tuple[str, ...]:
    """The marks in a form's frame that may be tokens of their own in a vocabulary. A server of
    today leaves such tokens out of the text unless they are named to it."""
    shape = form.shape
    texts = (*form.opening, shape.prefix, shape.before_name, shape.after_name, shape.suffix)
    found = [m for text in (*texts, shape.separator, shape.end) for m in _MARK.findall(text)]
    return tuple(dict.fromkeys(found))


def _marks(form: Form) -> dict[str, str]:
    """The marks at which free text may be stopped, each with what of a call's frame it stands for.

    Only tags: "Action:" is a word that any text may hold, so such a form is bound later, where its
    parser has read the name of a tool."""
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
