"""Shared by all tool-call formats: their shape, and the bodies of most."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from ...core.events import ReasoningDelta
from .reader import Body, CallReader, Malformed, Reading, Wait

Tools = Mapping[str, Mapping[str, Any]]
"""The tools of a request: names, each with the JSON schema of its arguments ({} if unknown)."""

# In the literals of a shape:
ID = "\0"  # stands for the id of a call,
NAME = "\1"  # for the name of the tool, in what follows it,
KEY = "\2"  # for the name of the argument, in what follows its value,
TYPE = "\3"  # for the JSON type of a value, in what precedes it.


class TaggedArguments(Struct, frozen=True, kw_only=True):
    """The literals around arguments that are not one JSON object::

        ARGUMENTS = (ARGUMENT (separator ARGUMENT)*)?
        ARGUMENT  = before_key KEY after_key VALUE after_value

    A VALUE of type string is the text itself, any other is JSON. `after_key` may contain TYPE, and
    `after_value` KEY."""

    before_key: str
    after_key: str
    after_value: str
    separator: str = ""
    text_after_key: str = ""
    text_after_value: str = ""
    """These are of a text, if they differ."""
    json_text: bool = False
    cdata: bool = False

    def around(self, key: str, kind: str) -> tuple[str, str]:
        """What precedes and follows a value of this JSON type, with the name of the argument."""
        before, after = self.after_key, self.after_value
        if kind == "string":
            before, after = self.text_after_key or before, self.text_after_value or after
        kind = "number" if kind in ("integer", "fraction") else kind
        return self.before_key + key + before.replace(TYPE, kind), after.replace(KEY, key)


class CallShape(Struct, frozen=True, kw_only=True):
    """The literal text around the calls of a reply, as models of the family write it::

        prefix CALL (separator CALL)* end
        CALL = before_name NAME after_name ARGUMENTS suffix

    NAME is unquoted; ARGUMENTS is a JSON object, or `tagged`. Where `before_name`, `after_name` or
    `suffix` contains ID, the model writes an id; `after_name` may contain NAME.
    """

    prefix: str = ""
    before_name: str = ""
    after_name: str = ""
    suffix: str = ""
    separator: str = ""
    end: str = ""
    parallel: bool = True
    tagged: TaggedArguments | None = None
    ids: Literal["word", "nine", "index"] = "word"
    """The ids of calls: letters, digits, "_" and "-"; nine letters and digits; or a number."""


class CallFormat(Struct, frozen=True, kw_only=True, cache_hash=True):
    """A family's format of tool calls, or of whole answers. ``opening`` are the texts that open a
    call inside free text: the gateway may stop there and continue under a grammar."""

    name: str
    opening: tuple[str, ...]
    shape: CallShape
    body: Callable[[Tools], Body]
    binds: bool = True
    """Whether the shape has all that the model writes, so a call that it has begun may continue
    under the grammar. A call that must be made does so in any case."""
    turns: tuple[str, ...] = ()
    """The texts behind which the model's turn begins in a prompt, for formats of whole answers."""
    reasoning: tuple[str, str] = ("", "")
    content: tuple[str, str] = ("", "")
    stops: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    matches: Callable[[str], bool] = lambda source: False

    @property
    def reads_reasoning(self) -> bool:
        """Whether its parser reads the whole answer, reasoning included, which no other stage must
        have split. It needs the prompt, to know what the answer continues."""
        return bool(self.turns)

    def parser(self, tools: Tools, prompt: str = "", halts: Collection[str] = ()) -> CallReader:
        """A streaming parser for one reply that continues `prompt`."""
        reader = CallReader(self.body(tools), tools, halts)
        if self.turns:
            at, turn = max((prompt.rfind(turn), turn) for turn in self.turns)
            if at >= 0 and not reader.begin(prompt[at + len(turn) :]):
                return CallReader(self.body(tools), tools, halts)
        return reader


Read = Callable[[CallReader, Tools, str], Wait]


def text_with_marks(
    marks: Sequence[str],
    read: Read,
    at_start: Callable[[CallReader, Tools], Wait] | None = None,
) -> Callable[[Tools], Body]:
    """The body of a format with text, in which marks open calls. ``read`` continues after the mark.
    ``at_start`` may read a call without a mark at the beginning of the reply, recognised by the
    name of a known tool. Both raise Malformed if there is no call."""

    def body(tools: Tools) -> Body:
        def run(reader: CallReader) -> Wait:
            if at_start is not None:
                reader.keep()
                try:
                    yield from at_start(reader, tools)
                except Malformed:
                    reader.rewind()
            while mark := (yield from reader.text_until(marks if tools else ())):
                yield from opened(reader, tools, mark, read)

        return run

    return body


def opening_tag(reader: CallReader, tags: Sequence[str]) -> Reading[str | None]:
    """Takes one of the tags, behind white space; None if none comes, and nothing is taken."""
    reader.keep()
    try:
        yield from reader.spaces()
        tag = yield from reader.skip_one(tags)
    except Malformed:  # too much white space
        tag = None
    if tag is None:
        reader.rewind()
    return tag


def thoughts(
    reader: CallReader, ends: Sequence[str], marks: Sequence[str], read: Read, tools: Tools
) -> Reading[str]:
    """Reads reasoning up to one of `ends` or a call, and returns the mark that ended it."""
    reader.begin_text(ReasoningDelta)
    while mark := (yield from reader.text_until(marks, ends)):
        if mark in ends or (yield from opened(reader, tools, mark, read)):
            break
    reader.begin_text()
    return mark


def opened(reader: CallReader, tools: Tools, mark: str, read: Read) -> Reading[bool]:
    """Reads what the mark opens; False if that is no call."""
    calls = reader.calls
    try:
        yield from read(reader, tools, mark)
        reader.accept()
    except Malformed:
        reader.degrade(len(mark))
    return reader.calls > calls


def follows(reader: CallReader, *marks: str) -> Reading[bool]:
    """Whether one of ``marks`` or the end of the answer follows, behind white space."""
    yield from reader.spaces()
    return not (yield from reader.more()) or (yield from reader.look(marks)) is not None


def marks_in(*marks: str, without: Sequence[str] = ()) -> Callable[[str], bool]:
    """Whether a template's source contains all of ``marks`` and none of `without`."""
    return lambda source: all(m in source for m in marks) and not any(m in source for m in without)
