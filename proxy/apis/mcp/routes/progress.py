"""Answers of /mcp as streams of events: progress of a call, then its result.

A client that sends a progress token hears of the call while it runs: the text of a model as it is
written, and every second that a tool takes. A call that is cancelled gets no result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator

from ....core.events import Batch, TextDelta
from ....dialogue import ToolError
from ....dialogue.events import Tick
from ....errors import Cancelled, GatewayError
from ....web.stream import ClosingBody
from .. import server as mcp_server
from ..server import Id

SECOND = 1.0  # between two notifications about a tool
PAUSE = 0.1  # seconds between two notifications about a text, at least


class CallBody(ClosingBody):
    """The stream of a call whose model holds a slot."""

    __slots__ = ()

    holds_slot = True


class TextProgress:
    """Encodes the events of a model as notifications of the call with this id, each with the text
    since the one before, and the result at the end. `total` is the length of the longest answer in
    tokens, 0 if it has no limit."""

    content_type = "text/event-stream"

    def __init__(
        self, key: Id, token: Id, total: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._key = key
        self._token = token
        self._total = total
        self._clock = clock
        self._text: list[str] = []
        self._told = 0  # pieces of the text that were sent
        self._tokens = 0
        self._last = 0.0

    def encode(self, choice: int, batch: Batch) -> bytes:
        if not batch:
            return mcp_server.HEARTBEAT
        for event in batch:
            if isinstance(event, TextDelta) and event.text:
                self._text.append(event.text)
                self._tokens += event.pieces
        now = self._clock()
        if self._told == len(self._text) or now - self._last < PAUSE:
            return b""
        self._last = now
        piece = "".join(self._text[self._told :])
        self._told = len(self._text)
        return mcp_server.frame(mcp_server.progress(self._token, self._tokens, piece, self._total))

    def fail(self, fault: GatewayError) -> bytes:
        result = mcp_server.content(fault.message, failed=True)
        return mcp_server.frame(mcp_server.answer(self._key, result))

    def end(self) -> bytes:
        return mcp_server.frame(
            mcp_server.answer(self._key, mcp_server.content("".join(self._text)))
        )


def told(work: Generator[Tick, None, str], key: Id, token: Id) -> Generator[bytes, None, None]:
    """The stream of a call of a tool, which ticks every second and returns its text."""
    seconds = 0
    try:
        while True:
            try:
                next(work)
            except StopIteration as finished:
                result = mcp_server.content(finished.value)
                break
            seconds += 1
            yield mcp_server.frame(mcp_server.progress(token, seconds, f"running for {seconds} s"))
    except ToolError as error:
        result = mcp_server.content(str(error), failed=True)
    except GatewayError as error:
        if type(error) is Cancelled:
            return
        result = mcp_server.content(error.message, failed=True)
    finally:
        work.close()
    yield mcp_server.frame(mcp_server.answer(key, result))
