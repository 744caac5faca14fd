"""The stage that decides which calls of an answer reach the client: so many, none twice, all whole.

A grammar bounds the number of calls, but not on every backend, and it cannot say "not again": small
models write the same call until the token limit. So the answer ends where a call begins that is one
too many, or where a call proves to be a repetition. Nothing of it has been sent by then: a call is
held back while it is equal to the beginning of an earlier one.

A call that the token limit cuts cannot be made. Clients refuse the whole answer for it, so behind
whole calls it is left out, if it is still held back: always in an answer that is not streamed.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ..core.events import Batch, Failed, Finished, TextDelta, ToolCallDelta
from ..core.usage import Usage

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


class CallLimit:
    """Passes at most `most` different calls, then ends the answer. If it `streams`, a call is
    passed as soon as it differs from all earlier ones, otherwise when it is whole."""

    def __init__(self, most: int, usage: Callable[[], Usage], *, streams: bool) -> None:
        self.ended = False
        self._most = most
        self._usage = usage
        self._streams = streams
        self._earlier: list[tuple[str, str]] = []  # names and arguments of whole calls
        self._calls = 0
        self._name = ""
        self._arguments: list[str] = []
        self._length = 0
        self._same: list[str] = []  # arguments of earlier calls that begin like this one's
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
                        return self._end(out)
                    self._begin(event.name)
                self._held.append(event)
                if self._repeats(event.arguments):
                    return self._end(out)
                if not (self._holds and (self._same or not self._streams)):
                    out += self._release()
            elif isinstance(event, Finished):
                out += self._finished(event)
            else:
                if isinstance(event, Failed) or (isinstance(event, TextDelta) and event.text):
                    out += self._over()
                    self._in_text = True
                out.append(event)
        return out

    def _begin(self, name: str) -> None:
        self._calls += 1
        self._name, self._arguments, self._length = name, [], 0
        self._same = [arguments for earlier, arguments in self._earlier if earlier == name]
        self._holds, self._in_text = self._calls > 1, False

    def _repeats(self, text: str) -> bool:
        """Append to the arguments. Whether the call is now equal to an earlier one."""
        at, self._length = self._length, self._length + len(text)
        self._arguments.append(text)
        self._same = [arguments for arguments in self._same if arguments.startswith(text, at)]
        return any(len(arguments) == self._length for arguments in self._same)

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
        """The end of a call, if one was open."""
        if not self._in_text and self._is_whole():
            self._earlier.append((self._name, "".join(self._arguments)))
        return self._release()

    def _finished(self, event: Finished) -> Batch:
        if self._in_text or event.reason != "length":
            return [*self._over(), event]
        if not self._is_whole():
            if not self._holds:
                return [event]
            self._held.clear()
        # The limit came behind a whole call: nothing that was sent is missing anything.
        return [*self._release(), msgspec.structs.replace(event, reason="tool_calls")]

    def _end(self, out: Batch) -> Batch:
        self.ended = True
        return [*out, Finished(reason="tool_calls", usage=self._usage())]
