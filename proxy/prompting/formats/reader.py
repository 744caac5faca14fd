"""The streaming reader that all tool-call parsers use.

A format is a generator that reads a :class:`CallReader` as if the whole reply were there and yields
when it needs more text; the parser resumes it with each piece. Decisions depend on the characters
only, so the result does not depend on how the stream is cut into pieces.

While a call is only suspected, the text read is kept (at most MAX_HELD), and emitted as text if it
is not a call. Once the name has been emitted, that is no longer possible: if the call then breaks
off, it ends with ``CallEnd(whole=False)`` and the rest is text again.

A mark opens a call at the start of the reply, at the start of a line and behind another call. In
code it is text. Anywhere else the model may only be quoting it: such a call is emitted when it is
whole and of a known tool, otherwise it is text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from ..marks import Place, first_of, overlap
from .scanner import (
    MAX_HELD,
    MAX_NAME,
    CallArguments,
    CallEnd,
    CallStart,
    Malformed,
    Opening,
    Piece,
    Reading,
    ReasoningPiece,
    Scanner,
    TextPiece,
    Wait,
)

__all__ = [
    "MAX_CALLS",
    "MAX_HELD",
    "MAX_NAME",
    "Body",
    "CallArguments",
    "CallEnd",
    "CallReader",
    "CallStart",
    "Malformed",
    "Opening",
    "Piece",
    "Reading",
    "ReasoningPiece",
    "TextPiece",
    "Wait",
]

MAX_CALLS = 1024
_RESCANNED = 4096
"""Maximum characters behind a mark that are searched again if it opened no call, and..."""
_MAX_RESCANS = 64
"""...how often in a reply."""

Body = Callable[["CallReader"], Wait]


class CallReader(Scanner):
    """Reads a reply while it streams. Methods that may wait for text are generators."""

    def __init__(self, tools: Collection[str] | None = None, halts: Collection[str] = ()) -> None:
        super().__init__()
        self._tools = tools or ()
        self._halts = halts
        self._begins_with_mark = False  # the kept text does, behind white space
        self._rescans = 0
        self._place = Place()
        self._open = False
        self.call_id = ""  # of the next call, if the model wrote one
        self._draft: list[Piece] | None = None  # pieces of a call that may be a quotation
        self._calls_before = 0  # the draft
        self._behind_before = False
        self.behind_call = False  # only marks and white space since the last call
        self.calls = 0
        self.call_at = 0  # of the last call's mark, or of its beginning if it has none
        self.arguments_at = 0  # where the last call's name was known; mostly its arguments' start
        self.opened: Opening | None = None  # the mark at which the parser halted
        self.found_unmeant = False  # whether a whole call was found where a mark means nothing
        # Inside free text with nothing held back: the first characters of marks. Text without them
        # that does not end in white space needs no parsing.
        self.heads: frozenset[str] | None = None
        self.voice: type[TextPiece] | type[ReasoningPiece] = TextPiece
        """What the running text is. A format that reads the whole answer changes it."""
        self.out: list[Piece] = []

    # Called by the parser.

    def passed(self, text: str) -> None:
        """Notes free text that the parser passed on without pushing it."""
        self._before += len(text)
        self._place.feed(text)

    def drain(self) -> list[Piece]:
        """The pieces since the last call; adjacent pieces of one kind are joined."""
        out, self.out = self.out, []
        return out

    def restart(self) -> None:
        """Drops what was read so far, which is of the prompt: the reply begins here, at position
        0. The rest of the prompt's text, which has not been emitted, never is."""
        self.out = []
        self.calls = self._calls_before = 0
        self._before = -len(self._buffer)

    @property
    def in_call(self) -> bool:
        """Whether a call has begun and not ended."""
        return self._open

    def text_until(self, marks: Sequence[str], ends: Sequence[str] = ()) -> Reading[str]:
        """Emits text up to the first of ``marks`` that may open a call and takes the mark; returns
        "" at the end of the reply.

        White space before a mark and after a call belongs to the format and is removed. No mark may
        be a prefix of another. The text is of the current `voice`.

        ``ends`` are marks of the format that open no call: they count in any place, though not in
        code that belongs to the answer's text."""
        self._kept = None
        marks = (*marks, *ends)
        heads = frozenset(mark[0] for mark in marks)
        while True:
            self.heads = None
            rest = self._buffer[self._at :]
            if self.behind_call:
                self._take(len(rest) - len(rest.lstrip()))
                rest = rest.lstrip()
            at, mark = first_of(rest, marks)
            if mark:
                text = rest[:at].rstrip()
                self.text(text)
                self._take(len(text))
                spaces = rest[len(text) : at]
                is_end = mark in ends
                if self._ends_here(spaces) if is_end else self._mark_opens(spaces, mark):
                    if not is_end and mark in self._halts and self._draft is None:
                        self.opened = Opening(self.call_at + len(mark), mark)
                        while True:
                            yield
                    self._kept, self._size, self._begins_with_mark = [], 0, True
                    self._take(at - len(text) + len(mark))
                    return mark
                quoted = rest[len(text) : at + len(mark)]
                self.text(quoted)
                self._take(len(quoted))
                continue
            if self._ended:
                self.text(rest)
                self._take(len(rest))
                return ""
            ready = rest[: len(rest) - overlap(rest, marks)].rstrip() if marks else rest
            self.text(ready)
            self._take(len(ready))
            if len(ready) == len(rest) and not self.behind_call:
                self.heads = heads
            yield

    def _ends_here(self, spaces: str) -> bool:
        """Whether a mark behind these white spaces, which opens no call, is more than text."""
        place = self._place
        return self.voice is ReasoningPiece or not (
            place.is_block or (place.is_code and "\n" not in spaces)
        )

    def _mark_opens(self, spaces: str, mark: str) -> bool:
        """Whether the mark behind these white spaces may open a call; begins a draft if the model
        may be quoting it."""
        place, new_line = self._place, "\n" in spaces
        if place.is_block or (place.is_code and not new_line):
            return False
        self.call_at = self._before + self._at + len(spaces)
        meant = place.is_fresh or new_line or self.behind_call
        self._draft = None if meant else []
        self._calls_before, self._behind_before = self.calls, self.behind_call
        return True

    # Called by formats to emit.

    def keep(self) -> None:
        """A call may begin here: keeps the text read from now on."""
        if self._draft is None:
            self._kept, self._size, self._begins_with_mark = [], 0, False

    def start(self, name: str) -> None:
        """Begins a call, irrevocably but for a draft."""
        if not name or self.calls >= MAX_CALLS:
            raise Malformed
        self._open = True
        self.arguments_at = self.position
        if self._draft is None:
            self._kept = None
        elif name not in self._tools:
            raise Malformed
        self._pieces.append(CallStart(self.calls, name, self.call_id))
        self.call_id = ""

    def arguments(self, text: str) -> None:
        """Emits a part of the open call's arguments."""
        pieces = self._pieces
        last = pieces[-1] if pieces else None
        if isinstance(last, CallArguments):
            pieces[-1] = CallArguments(self.calls, last.text + text)
        elif text:
            pieces.append(CallArguments(self.calls, text))

    def finish(self) -> None:
        """Ends the open call."""
        self._pieces.append(CallEnd(self.calls))
        self._open = False
        self.behind_call = True
        self.calls += 1
        self.keep()

    def accept(self) -> None:
        """What was read since the mark is complete: a draft is emitted."""
        draft, self._draft = self._draft, None
        self._kept = None
        if draft:
            self.out += draft
            self.found_unmeant = True

    def reasoning(self, text: str) -> None:
        """Emits a part of the reasoning."""
        voice, self.voice = self.voice, ReasoningPiece
        self.text(text)
        self.voice = voice

    def text(self, text: str, at: int | None = None) -> None:
        """Emits text of the current `voice`. It begins here or at position `at`; what is of the
        prompt is left out."""
        if not text:
            return
        self.behind_call = False
        self._place.feed(text)
        text = text[max(0, -(self.position if at is None else at)) :]
        last = self.out[-1] if self.out else None
        if isinstance(last, self.voice):
            self.out[-1] = self.voice(last.text + text)
        elif text:
            self.out.append(self.voice(text))

    def begin_text(self, voice: type[TextPiece] | type[ReasoningPiece] = TextPiece) -> None:
        """From here on the text is of this kind, and begins a line."""
        self.voice = voice
        self._place = Place()

    def call(self, name: str, arguments: str) -> None:
        """Emits a whole call."""
        self.start(name)
        self.arguments(arguments)
        self.finish()

    def degrade(self, mark: int = 0) -> None:
        """It is not a call after all: emits the kept text. If that begins with a mark of so many
        characters, the text behind it is read again, since a call may begin there."""
        begins_with_mark = self._begins_with_mark
        kept = self._give_up()
        size = 0
        if begins_with_mark:
            size = len(kept) - len(kept.lstrip()) + mark
        again = kept[size:]
        if mark and 0 < len(again) <= _RESCANNED and self._rescans < _MAX_RESCANS:
            self._rescans += 1
            self._unread(again)
            kept = kept[:size]
        if not self.behind_call or not kept.isspace():
            self.text(kept, self.position - len(kept))

    def put_back(self, text: str) -> None:
        """Reads ``text``, which was just taken, again."""
        if self._kept is not None:
            self._kept = ["".join(self._kept).removesuffix(text)]
            self._size -= len(text)
        self._unread(text)

    def rewind(self) -> None:
        """Reads the kept text again, as text that may contain marks: it is not a call after all."""
        self._unread(self._give_up())

    @property
    def _pieces(self) -> list[Piece]:
        return self.out if self._draft is None else self._draft

    def _give_up(self) -> str:
        if self._draft is not None:
            self._draft, self._open = None, False
            self.calls, self.behind_call = self._calls_before, self._behind_before
        elif self._open:
            self.out.append(CallEnd(self.calls, whole=False))
            self._open = False
            self.calls += 1
        kept, self._kept = "".join(self._kept or ()), None
        return kept
