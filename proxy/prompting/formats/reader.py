"""The streaming reader that all tool-call parsers use.

A format is a generator that reads a :class:`CallReader` as if the whole reply were there and yields
when it needs more text. A call begins with its name, and with the model's own id if it writes one
before the arguments; its other pieces are parts of the arguments' JSON text. The result does not
depend on how the stream is cut into pieces.

Text that may be a call is kept (at most MAX_HELD), and emitted as text if it is none. Once the name
has been emitted, that is no longer possible: if the call then breaks off, the rest is text.

A mark opens a call at the start of the reply, at the start of a line and behind another call. In
code it is text. Anywhere else the model may only be quoting it: such a call is emitted when it is
whole and of a known tool, otherwise it is text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from typing import TypeVar

from ...core.events import Piece, ReasoningDelta, TextDelta, ToolCallDelta
from .scanner import JsonScanner, Place, first_of, is_json, overlap


class Malformed(Exception):
    """The text read is not a call."""


MAX_HELD = 262_144  # characters kept while a call is suspected
MAX_NAME = 256
MAX_CALLS = 1024
# Characters behind a mark that are searched again if it opened no call, and how often in a reply.
_RESCANNED = 4096
_MAX_RESCANS = 64


class Held(list[str]):
    """Texts with at most so many characters together; otherwise Malformed is raised."""

    def __init__(self, left: int) -> None:
        self._left = left

    def add(self, text: str) -> None:
        self._left -= len(text)
        if self._left < 0:
            raise Malformed
        self.append(text)


T = TypeVar("T")
Wait = Generator[None, None, None]
Reading = Generator[None, None, T]
Body = Callable[["CallReader"], Wait]


class CallReader:
    """Reads one reply: ``feed`` it the text as it streams, then ``close`` it. The methods for
    `body`, which may wait for text, are generators. It stops for good at the first mark of
    ``halts`` that opens a call."""

    def __init__(
        self, body: Body, tools: Collection[str] = (), halts: Collection[str] = ()
    ) -> None:
        self._steps: Wait | None = body(self)
        self._tools = tools
        self._halts = halts
        self._buffer = ""
        self._at = 0  # in the buffer
        self._before = 0  # characters of the reply before the buffer
        self._ended = False
        self._kept_from = -1  # where the kept text begins in the buffer, -1 for nothing kept
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
        self.opened: tuple[int, str] | None = None  # behind and at which mark it halted
        self.found_unmeant = False  # whether a whole call was found where a mark means nothing
        # Inside free text with nothing held back: the first characters of marks. Text without them
        # that does not end in white space needs no parsing.
        self._heads: frozenset[str] | None = None
        self.voice: type[TextDelta] | type[ReasoningDelta] = TextDelta
        """What the running text is. A format that reads the whole answer changes it."""
        self.out: list[Piece] = []

    def feed(self, text: str) -> list[Piece]:
        """The pieces that are certain after this text; adjacent ones of one kind are joined."""
        if not text:
            return []
        heads = self._heads
        if heads is not None and heads.isdisjoint(text) and not text[-1].isspace():
            self._before += len(text)
            self._place.feed(text)
            return [self.voice(text)]
        begin = self._at if self._kept_from < 0 else self._kept_from
        self._before += begin
        self._buffer = self._buffer[begin:] + text
        self._at -= begin
        self._kept_from = min(self._kept_from, 0)
        return self._resume()

    def close(self) -> list[Piece]:
        """The remaining pieces; the arguments of a call that is cut off are incomplete."""
        self._ended = True
        return self._resume()

    def _resume(self) -> list[Piece]:
        if self._steps is not None and next(self._steps, self) is self:
            self._steps = None
        out, self.out = self.out, []
        return out

    def begin(self, text: str) -> bool:
        """Reads the part of the turn that is in the prompt and drops it: the reply begins at
        position 0 behind it. False if a client's text in it looks like half a call."""
        self.feed(text)
        self.calls = self._calls_before = 0
        self._before = -len(self._buffer)
        return not (self._open or self.opened)

    @property
    def is_draft(self) -> bool:
        """Whether the model may only be quoting the mark of the last call."""
        return self._draft is not None

    # Called by formats to read.

    @property
    def position(self) -> int:
        return self._before + self._at

    @property
    def unread(self) -> int:
        return len(self._buffer) - self._at

    def more(self) -> Reading[bool]:
        """Waits for a character; False at the end of the reply."""
        while self._at == len(self._buffer):
            if self._ended:
                return False
            yield
        return True

    def peek(self) -> Reading[str]:
        """The next character, "" at the end of the reply."""
        return self._buffer[self._at] if (yield from self.more()) else ""

    def skip(self, literal: str) -> Reading[bool]:
        """Takes ``literal`` if it comes next. A blank at its beginning stands for any white space,
        which is taken in any case."""
        if literal[0] == " ":
            yield from self.spaces()
            literal = literal[1:]
        return (yield from self.skip_one((literal,))) is not None

    def skip_one(self, literals: Sequence[str]) -> Reading[str | None]:
        """Takes the longest of ``literals`` that comes next, if any."""
        literal = yield from self.look(literals)
        if literal is not None:
            self._take(len(literal))
        return literal

    def look(self, literals: Sequence[str]) -> Reading[str | None]:
        """The longest of ``literals`` that comes next, if any, which is not taken."""
        while True:
            rest = self._buffer[self._at : self._at + 2 * MAX_NAME]
            longer = [s for s in literals if len(s) > len(rest) and s.startswith(rest)]
            if not longer or self._ended:
                break
            yield
        return max((s for s in literals if rest.startswith(s)), key=len, default=None)

    def expect(self, literal: str) -> Wait:
        """Takes ``literal``, as ``skip`` does, or raises Malformed."""
        if not (yield from self.skip(literal)):
            raise Malformed

    def spaces(self) -> Wait:
        while (yield from self.more()):
            rest = self._buffer[self._at :]
            count = len(rest) - len(rest.lstrip())
            self._take(count)
            if count < len(rest):
                return

    def until(self, mark: str, limit: int = MAX_NAME) -> Reading[str]:
        """Takes the text up to ``mark``, and the mark. Raises Malformed if it does not come within
        the limit."""
        parts = Held(limit)
        if (yield from self.up_to(mark, parts.add)) is None:
            raise Malformed
        return "".join(parts)

    def run(self, allowed: Callable[[str], bool], limit: int = MAX_NAME) -> Reading[str]:
        """Takes characters while they are allowed. Raises Malformed beyond the limit."""
        parts = Held(limit)
        while (yield from self.more()) and allowed(self._buffer[self._at]):
            parts.add(self._buffer[self._at])
            self._take(1)
        return "".join(parts)

    def char(self) -> Reading[str]:
        """Takes the next character. Raises Malformed at the end of the reply."""
        if not (yield from self.more()):
            raise Malformed
        self._take(1)
        return self._buffer[self._at - 1]

    def chunk(self, stops: str) -> Reading[str]:
        """Takes what is there up to one of these characters."""
        yield from self.more()
        rest = self._buffer[self._at :]
        end = min((at for stop in stops if (at := rest.find(stop)) >= 0), default=len(rest))
        self._take(end)
        return rest[:end]

    def value(self, sink: Callable[[str], None]) -> Wait:
        """Takes a JSON value, passing its text to ``sink`` as it streams. Raises Malformed where no
        value can continue, or at the end of one that is not JSON."""
        scanner = JsonScanner()
        parts: list[str] = []
        while not scanner.done:
            if not (yield from self.more()):
                if not scanner.finish():
                    raise Malformed
                break
            end, text = scanner.scan(self._buffer, self._at)
            self._take(end - self._at)
            if text:
                parts.append(text)
                sink(text)
            if scanner.failed:
                raise Malformed
        if not is_json("".join(parts)):
            raise Malformed

    def starts(self, literals: Sequence[str]) -> Reading[bool]:
        """Whether one of ``literals`` comes next, behind any white space, or the reply ends there.
        Takes nothing."""
        while True:
            rest = self._buffer[self._at :]
            text = rest.lstrip()
            if text.startswith(tuple(literals)) or (self._ended and not text):
                return True
            waits = len(rest) - len(text) <= MAX_NAME and any(s.startswith(text) for s in literals)
            if self._ended or not waits:
                return False
            yield

    def up_to(
        self, mark: str, sink: Callable[[str], None], before: str = ""
    ) -> Reading[str | None]:
        """Passes text to ``sink`` as it streams, up to ``mark``, with ``before`` if that comes
        directly before it. Takes and returns these; None if the reply ends first."""
        marks = (mark, before + mark)
        while True:
            rest = self._buffer[self._at :]
            at = rest.find(mark)
            end = at if at >= 0 else len(rest) - (0 if self._ended else overlap(rest, marks))
            if at >= 0 and before and rest.endswith(before, 0, at):
                end -= len(before)
            if end:
                sink(rest[:end])
                self._take(end)
            if at >= 0:
                self._take(at + len(mark) - end)
                return rest[end : at + len(mark)]
            if self._ended:
                return None
            yield

    def text_until(self, marks: Sequence[str], ends: Sequence[str] = ()) -> Reading[str]:
        """Emits text up to the first of ``marks`` that may open a call and takes the mark; returns
        "" at the end of the reply.

        White space before a mark and after a call belongs to the format and is removed. No mark may
        be a prefix of another. ``ends`` are marks of the format that open no call: they count in
        any place but code of the answer's text."""
        self._kept_from = -1
        marks = (*marks, *ends)
        heads = frozenset(mark[0] for mark in marks)
        while True:
            self._heads = None
            rest = self._buffer[self._at :]
            if self.behind_call:
                self._at += len(rest) - len(rest.lstrip())
                rest = rest.lstrip()
            at, mark = first_of(rest, marks)
            if mark:
                text = rest[:at].rstrip()
                self._pass(text)
                spaces = rest[len(text) : at]
                is_end = mark in ends
                if is_end:
                    counts = self.voice is ReasoningDelta or not self._place.is_code_behind(spaces)
                else:
                    counts = self._mark_opens(spaces)
                if counts:
                    if not is_end and mark in self._halts and self._draft is None:
                        self.opened = self.call_at + len(mark), mark
                        while True:
                            yield
                    self._kept_from, self._begins_with_mark = self._at, True
                    self._take(len(spaces) + len(mark))
                    return mark
                self._pass(spaces + mark)
                continue
            if self._ended:
                self._pass(rest)
                return ""
            ready = rest[: len(rest) - overlap(rest, marks)].rstrip() if marks else rest
            self._pass(ready)
            if len(ready) == len(rest) and not self.behind_call:
                self._heads = heads
            yield

    def _pass(self, text: str) -> None:
        self.text(text)
        self._at += len(text)

    def _mark_opens(self, spaces: str) -> bool:
        """Whether the mark behind these white spaces may open a call; begins a draft if the model
        may be quoting it."""
        place, new_line = self._place, "\n" in spaces
        if place.is_code_behind(spaces):
            return False
        self.call_at = self.position + len(spaces)
        meant = place.is_fresh or new_line or self.behind_call
        self._draft = None if meant else []
        self._calls_before, self._behind_before = self.calls, self.behind_call
        return True

    def _take(self, count: int) -> None:
        self._at += count
        if self._kept_from >= 0 and self._at - self._kept_from > MAX_HELD:
            raise Malformed

    # Called by formats to emit.

    def keep(self) -> None:
        """A call may begin here: keeps the text read from now on."""
        if self._draft is None:
            self._kept_from, self._begins_with_mark = self._at, False

    def start(self, name: str) -> None:
        """Begins a call, irrevocably but for a draft."""
        if not name or self.calls >= MAX_CALLS:
            raise Malformed
        self._open = True
        self.arguments_at = self.position
        if self._draft is None:
            self._kept_from = -1
        elif name not in self._tools:
            raise Malformed
        self._pieces.append(ToolCallDelta(self.calls, self.call_id, name))
        self.call_id = ""

    def arguments(self, text: str) -> None:
        pieces = self._pieces
        last = pieces[-1] if pieces else None
        if isinstance(last, ToolCallDelta) and not last.name:
            pieces[-1] = ToolCallDelta(self.calls, arguments=last.arguments + text)
        elif text:
            pieces.append(ToolCallDelta(self.calls, arguments=text))

    def finish(self) -> None:
        self._open = False
        self.behind_call = True
        self.calls += 1
        self.keep()

    def call(self, name: str, arguments: str) -> None:
        self.start(name)
        self.arguments(arguments)
        self.finish()

    def accept(self) -> None:
        """What was read since the mark is complete: a draft is emitted."""
        draft, self._draft = self._draft, None
        self._kept_from = -1
        if draft:
            self.out += draft
            self.found_unmeant = True

    def text(self, text: str, at: int | None = None) -> None:
        """Emits text, which begins here or at position `at`; what is of the prompt is left out."""
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

    def begin_text(self, voice: type[TextDelta] | type[ReasoningDelta] = TextDelta) -> None:
        """From here on the text is of this kind, and begins a line."""
        self.voice = voice
        self._place = Place()

    def degrade(self, mark: int = 0) -> None:
        """It is not a call after all: emits the kept text. What is behind a mark of so many
        characters is read again, since a call may begin there."""
        held = self._give_up()
        size = 0
        if self._begins_with_mark:
            size = len(held) - len(held.lstrip()) + mark
        again = len(held) - size
        if mark and 0 < again <= _RESCANNED and self._rescans < _MAX_RESCANS:
            self._rescans += 1
            self._at -= again
            held = held[:size]
        if not self.behind_call or not held.isspace():
            self.text(held, self.position - len(held))

    def rewind(self) -> None:
        """Reads the kept text again, as text that may contain marks: it is not a call after all."""
        self._at -= len(self._give_up())

    @property
    def _pieces(self) -> list[Piece]:
        return self.out if self._draft is None else self._draft

    def _give_up(self) -> str:
        if self._draft is not None:
            self._draft, self._open = None, False
            self.calls, self.behind_call = self._calls_before, self._behind_before
        elif self._open:
            self._open = False
            self.calls += 1
        held = self._buffer[self._kept_from : self._at] if self._kept_from >= 0 else ""
        self._kept_from = -1
        return held
