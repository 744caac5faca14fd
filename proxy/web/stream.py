"""Streamed answers as WSGI bodies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from ..core.events import Batch, Failed, Finished, ReasoningDelta
from ..core.request import CompletionRequest
from ..errors import Cancelled, GatewayError
from ..gateway import Info
from ..server.http1 import Last


class Encoder(Protocol):
    """Encodes events in a dialect's stream format; `fail` replaces the event Failed."""

    content_type: str

    def encode(self, choice: int, batch: Batch) -> bytes: ...

    def fail(self, fault: GatewayError) -> bytes: ...

    def end(self) -> bytes: ...


class EventSource(Protocol):
    """A running answer: the gateway's own, or a dialogue with searches."""

    @property
    def request(self) -> CompletionRequest: ...

    @property
    def info(self) -> Info: ...

    def prime(self) -> None:
        """Wait until the answer has started. Raises its error if it cannot."""

    def __iter__(self) -> Iterator[tuple[int, Batch]]: ...

    def close(self) -> None: ...


class ClosingBody:
    """A streamed body that is closed exactly once: WSGI servers call close() even if the client
    disconnected or the body was never iterated. `done` is called after `close`."""

    __slots__ = ("_close", "_done", "_parts")

    holds_slot = False

    def __init__(
        self, parts: Iterator[bytes], close: Callable[[], None], done: Callable[[], None]
    ) -> None:
        self._parts = parts
        self._close = close
        self._done: Callable[[], None] | None = done

    def __iter__(self) -> Iterator[bytes]:
        return self._parts

    def close(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            try:
                self._close()
            finally:
                done()


class WholeBody:
    """A whole answer, in `parts`. `close` counts and logs it, which is after it is sent."""

    __slots__ = ("close", "parts")

    def __init__(self, parts: Iterable[bytes], close: Callable[[], None]) -> None:
        self.parts = parts
        self.close = close

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.parts)


class SlotBody(ClosingBody):
    """A body whose answer holds a slot: the server disconnects slow readers sooner."""

    __slots__ = ()

    holds_slot = True


def encoded(
    answer: EventSource, encoder: Encoder, shown: Callable[[str], str] | None = None
) -> Iterator[bytes]:
    """The bytes of an answer as it arrives. `shown` gives the names of backends in errors."""
    encode, request = encoder.encode, answer.request
    left = request.choices if request.prompts else request.n
    choices = iter(answer)
    for choice, batch in choices:
        last = batch[-1] if batch else None
        if type(last) is Failed:
            error = last.error
            assert isinstance(error, GatewayError)
            if type(error) is Cancelled:
                return  # nobody reads the rest
            error.show_to(shown)
            before = encode(choice, batch[:-1]) if len(batch) > 1 else b""
            yield before + encoder.fail(error)
            return
        if last is None and (note := _note(answer.info, encoder)):
            yield note
            continue
        data = encode(choice, batch)
        if type(last) is Finished:
            left -= 1
            if not left:
                yield Last(data + encoder.end())
                for _ in choices:  # no more output, but the slot is released
                    pass
                return
        if data:
            yield data
    yield encoder.end()


def _note(info: Info, encoder: Encoder) -> bytes:
    """An SSE comment for a waiting client: its place in the queue, or the loading progress. What
    the referee did is one, too, since the headers were sent before."""
    if encoder.content_type != "text/event-stream":
        return b""
    if notice := info.notice:
        info.notice = ""
        return f": {notice}\n\n".encode()
    if info.place:
        return b": queue place %d\n\n" % info.place
    if info.loading:
        if info.shows_load and getattr(encoder, "shows_load", False):
            return encoder.encode(0, [ReasoningDelta(f"{info.loading}\n")])
        return f": {info.loading}\n\n".encode()
    return b""


LIFE = 15.0  # seconds of a stream that watches: it ends by itself, so an open page delays no stop
RETRY = b"retry: 500\n\n"  # begins it: milliseconds until a client connects again


def looks(period: float, sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Yield for each look of a stream that watches."""
    end = time.monotonic() + LIFE
    yield
    while time.monotonic() + period <= end:
        sleep(period)
        yield
