"""The stage that decides which calls of an answer reach the client: so many, all whole, and none
that the model repeats without end.

A grammar bounds the number of calls, but not on every backend, and it cannot say "not again": small
models write the same call until the token limit. Two equal calls in a row may be meant (two dice);
of more, the third and all further ones are dropped. They count, so a model in a loop reaches the
maximum, where the answer ends. Nothing of a dropped call has been sent: from the third on, a call
is held back while it is equal to the beginning of the one before.

A call that the token limit cuts cannot be made. Clients refuse the whole answer for it, so behind
whole calls it is left out, if it is still held back: always in an answer that is not streamed.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ..core.events import Batch, Failed, Finished, TextDelta, ToolCallDelta
from ..core.usage import Usage

REPEATS = 2
"""Equal calls in a row that reach the client."""
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
                        return self._end(out)
                    self._begin(event.name)
                self._held.append(msgspec.structs.replace(event, index=event.index - self.dropped))
                self._append(event.arguments)
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

    def _begin(self, name: str) -> None:
        self._calls += 1
        self._name, self._arguments, self._length = name, [], 0
        self._repeats = self._equal >= REPEATS and self._last[0] == name
        self._holds, self._in_text = self._calls > 1, False

    def _append(self, text: str) -> None:
        self._repeats = self._repeats and self._last[1].startswith(text, self._length)
        self._length += len(text)
        self._arguments.append(text)

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
        return [*self._over(), msgspec.structs.replace(event, reason="tool_calls")]

    def _end(self, out: Batch) -> Batch:
        self.ended = True
        return [*out, Finished(reason="tool_calls", usage=self._usage())]
