"""The stage that parses tool calls from text and detects where a call begins in free text.

Logprobs are reported for text only; the tokens of a call have none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ...core.events import (
    Batch,
    Event,
    Failed,
    Finished,
    Piece,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
)
from ...core.usage import Usage
from ..constraints import head
from ..formats.base import CallFormat, Tools

_MARK = re.compile(r"</?[^<>\s=\[\]\x00-\x1f]+>|\[/?[A-Z_]+\]|<\w+(?=\s)|｜[^｜\s]+｜")


class CallOpening(Struct, frozen=True):
    """Where a call began: `keep` characters of the text remain. They end with `written`, which
    means `frame_so_far`, a part of the call in the form of its shape."""

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
            replace(event, id=self._new_id())
            if isinstance(event, ToolCallDelta) and event.name
            else event
            for event in batch
        ]


class CallStage:
    """Parses the text of an answer that continues `prompt`.

    If `free`, it stops where a call begins, described by `opened`; the answer then continues under
    a grammar from `constraints`. A mark that the model may only be quoting does not stop it.

    If the token limit ends the answer inside a call, its arguments so far are sent, and the tool's
    name if one tool `must` be called."""

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
        # A format whose calls have no mark of their own may read text or reasoning before them.
        pieces = self._parser.feed(text)
        return self._events([piece for piece in pieces if isinstance(piece, ToolCallDelta)])

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
                    event = replace(event, reason="tool_calls")
            out.append(event)
        return out

    def _cut(self) -> Batch:
        pieces: list[Piece] = [p for p in self._parser.close() if not isinstance(p, TextDelta)]
        self._pending.clear()
        out = self._events(pieces)
        if self._must and not self.calls and len(self._tools) == 1:
            self.calls += 1
            out.append(ToolCallDelta(0, self._new_id(), *self._tools))
        return out

    def _open(self, pieces: list[Piece]) -> Batch:
        """Free text up to a mark, or until the parser reads the name of a tool."""
        reader = self._parser
        if reader.opened is not None:
            end, mark = reader.opened
            self.opened = CallOpening(end, mark, self._marks[mark])
            return self._events(pieces)
        start = next((p for p in pieces if isinstance(p, ToolCallDelta) and p.name), None)
        if start is None:
            return self._events(pieces)
        until = reader.arguments_at
        # Arguments that do not begin here are not JSON, or were written before the name.
        begins = self._text.startswith("{", until)
        if reader.found_unmeant or start.name not in self._tools or not begins:
            self._free = False
            return self._events(pieces)
        whole = head(self._form.shape, start.name)
        self.opened = CallOpening(until, self._text[reader.call_at : until], whole)
        return self._events(pieces[: pieces.index(start)])

    def _events(self, pieces: Sequence[Piece]) -> Batch:
        out: list[Event] = []
        for piece in pieces:
            if isinstance(piece, TextDelta):
                out.append(TextDelta(piece.text, self._logprobs()))
                continue
            self._pending.clear()
            if isinstance(piece, ToolCallDelta) and piece.name:
                self.calls += 1
                id = f"{self._new_id()}-{piece.id}" if piece.id else self._new_id()
                piece = ToolCallDelta(piece.index, id, piece.name)
            out.append(piece)
        return out

    def _logprobs(self) -> tuple[TokenLogprob, ...]:
        tokens, self._pending = tuple(self._pending), []
        return tokens


def special_marks(form: CallFormat) -> tuple[str, ...]:
    """The marks of a format that may be special tokens. A current server omits those from the text
    that the request does not list."""
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
    implies. Only tags: "Action:" may occur in any text, so such a format is bound once its parser
    has read the name of a tool."""
    shape = form.shape
    frame = shape.prefix + shape.before_name
    marks = {}
    for mark in form.opening:
        before, _, _ = frame.partition(mark)
        if mark[0] in "<[>" and mark in frame:
            marks[mark] = before + mark
        elif mark[0] in "<[>" and mark == shape.separator:
            marks[mark] = ""
    return marks


# Which calls of an answer reach the client.
#
# Small models write the same call until the token limit, and no grammar can say "not again". Two
# equal calls in a row may be meant (two dice); of more, the third and all further ones are dropped.
# They count, so a model in a loop reaches the maximum, where the answer ends. From the third on, a
# call is held back while it is equal to the beginning of the one before.
#
# Clients refuse an answer with a call that the token limit cut. Behind whole calls it is left out,
# if it is still held back: always in an answer that is not streamed.

REPEATS = 2
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


class CallLimit:
    """Passes calls until the model has written `most`, then ends the answer. If it `streams`, a
    call is passed as soon as it is no repetition too many, otherwise when it is whole. `dropped`
    counts the others."""

    def __init__(self, most: int, usage: Callable[[], Usage], *, streams: bool) -> None:
        self.ended = False
        self.dropped = 0
        self._most = most
        self._usage = usage
        self._streams = streams
        self._last = ("", "")  # name and arguments of the last whole call
        self._equal = 0  # whole calls in a row that were equal to it
        self._calls = 0
        self._name = ""
        self._arguments: list[str] = []
        self._length = 0
        self._repeats = False  # the call is equal to the beginning of one repeated enough
        self._held: Batch = []
        self._holds = False
        self._in_text = True  # the last event was no part of a call

    def feed(self, batch: Batch) -> Batch:
        out: Batch = []
        for event in batch:
            if isinstance(event, ToolCallDelta):
                if event.name:
                    out += self._over()
                    if self._calls == self._most:
                        self.ended = True
                        return [*out, Finished(reason="tool_calls", usage=self._usage())]
                    self._calls += 1
                    self._name, self._arguments, self._length = event.name, [], 0
                    self._repeats = self._equal >= REPEATS and self._last[0] == event.name
                    self._holds, self._in_text = self._calls > 1, False
                self._held.append(replace(event, index=event.index - self.dropped))
                text = event.arguments
                self._repeats = self._repeats and self._last[1].startswith(text, self._length)
                self._length += len(text)
                self._arguments.append(text)
                if not (self._holds and (self._repeats or not self._streams)):
                    out += self._release()
            elif isinstance(event, Finished):
                out += self._finished(event)
            else:
                if isinstance(event, Failed) or (isinstance(event, TextDelta) and event.text):
                    out += self._over()
                    self._in_text = True
                out.append(event)
        return out

    def _release(self) -> Batch:
        self._holds = False
        held, self._held = self._held, []
        return held

    def _is_whole(self) -> bool:
        try:
            _OBJECT.decode("".join(self._arguments))
        except (msgspec.DecodeError, RecursionError):
            return False
        return True

    def _over(self) -> Batch:
        if not self._in_text and self._is_whole():
            if self._repeats and self._length == len(self._last[1]):
                self.dropped += 1
                self._held.clear()
                return []
            call = (self._name, "".join(self._arguments))
            self._equal = self._equal + 1 if call == self._last else 1
            self._last = call
        return self._release()

    def _finished(self, event: Finished) -> Batch:
        if self._in_text or event.reason != "length":
            return [*self._over(), event]
        if not self._is_whole():
            if not self._holds:
                return [event]
            self._held.clear()
        # The limit came behind a whole call: nothing that was sent is missing anything.
        return [*self._over(), replace(event, reason="tool_calls")]
