"""A stream of server.cpp as a Run, and its errors in every form they have.

What a stream says is read by `_event`, which is all that another form of chunks needs to replace.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

import msgspec

from ..core.events import Batch, Finished, Progress, Started, TextDelta
from ..core.task import Task
from ..core.usage import Usage
from ..errors import (
    AnswerCut,
    BackendBusy,
    BackendDown,
    BadRequest,
    ContextExceeded,
    GatewayError,
    Unsupported,
    UpstreamFault,
    UpstreamTimeout,
)
from ..wire import servercpp, sse
from .driver import Capabilities
from .http import Exchange

# Seconds for which the tokens of an answer that is not streamed are gathered: nobody waits for a
# single one, and what is done together costs a seventh. The end of the answer is never waited for.
GATHER = 0.02

# What of a chunk says whether it is more than text. Read for all chunks of a batch in one go, since
# a loop over them is what a fast answer would cost most.
_KIND = attrgetter("stop", "error", "prompt_progress")
_TEXT = (False, None, None)
_CONTENT = attrgetter("content")


class Run:
    """One completion under way: an iterable of batches, and what was counted so far."""

    def __init__(
        self, exchange: Exchange, task: Task, caps: Capabilities, timeout: float, tick: float
    ) -> None:
        self._exchange = exchange
        self._task = task
        self._caps = caps
        self._timeout = timeout
        self._tick = tick
        self._top = task.logprobs
        self._limit = task.max_tokens or 0
        self.slot = -1
        self.begun = False
        self.pieces = 0
        self.prompt_tokens = 0
        self.cached = 0

    def close(self) -> None:
        """Let the slot go. Safe to call again."""
        self._exchange.close()

    def usage(self) -> Usage:
        """What is known before the end; `prompt` 0 where an old server has not told yet."""
        return Usage(self.prompt_tokens, self.pieces, self.cached)

    def __iter__(self) -> Iterator[Batch]:
        exchange = self._exchange
        silence = 0.0
        gather = 0.0 if self._task.request.stream else GATHER
        decoder = sse.Decoder()
        try:
            while not exchange.headers_came():
                silence = self._waited(silence)
                yield []
            if exchange.status != 200:
                status = exchange.status
                raise refusal(status, exchange.read_all(self._tick))
            while True:
                data = exchange.read(gather if self.begun else 0.0)
                if data is None:
                    silence = self._waited(silence)
                    yield []
                    continue
                silence = 0.0
                batch: Batch = []
                plain = decoder.plain(data)
                if plain is not None:
                    over = self._plain(plain, batch)
                else:
                    over = self._events(decoder.feed(data) if data else decoder.close(), batch)
                if over:
                    yield batch
                    self._drain()
                    return
                if batch:
                    yield batch
                if not data:
                    if not self.begun:
                        raise BackendBusy("the backend has no free slot", detail="empty answer")
                    raise AnswerCut("the backend's answer broke off", detail="no last chunk")
        except (sse.SSEError, servercpp.WireFault) as error:
            raise UpstreamFault("the backend's answer is garbled", detail=str(error)) from None
        finally:
            exchange.close()

    def _waited(self, silence: float) -> float:
        silence += self._tick
        if silence >= self._timeout:
            raise UpstreamTimeout("the backend did not answer in time")
        return silence

    def _plain(self, payloads: list[bytes], batch: Batch) -> bool:
        """Add what the events of one read say; True after the last event.

        Text that came together is one delta: from here to the client it then costs what one token
        does. That a token may be short of a whole batch costs nobody anything."""
        if len(payloads) == 1:
            return self._take(servercpp.chunk(payloads[0]), batch)
        if self._top is not None:
            return any(self._event(payload, batch) for payload in payloads)
        chunks = servercpp.chunks(payloads)
        if not self.begun:
            if self._take(chunks[0], batch):
                return True
            del chunks[0]
        kinds = list(map(_KIND, chunks))
        more = len(kinds) - kinds.count(_TEXT)
        if not more:
            self._text(chunks, batch)
            return False
        if more == 1 and kinds[-1] != _TEXT:  # nearly always
            self._text(chunks[:-1], batch)
            return self._take(chunks[-1], batch)
        first = next(i for i, kind in enumerate(kinds) if kind != _TEXT)
        self._text(chunks[:first], batch)
        return any(self._take(chunk, batch) for chunk in chunks[first:])

    def _text(self, chunks: list[servercpp.Chunk], batch: Batch) -> None:
        """Add the text of plain chunks, without the surplus of an old server, which never gives
        fewer than four tokens."""
        if not chunks:
            return
        before, last = self.pieces, chunks[-1]
        if last.tokens_predicted:
            self.pieces = last.tokens_predicted
            self.prompt_tokens = last.tokens_evaluated
        else:
            self.pieces += len(chunks)
        if not self._caps.queues and self.pieces > self._limit:
            chunks = chunks[: max(0, self._limit - before)]
        text = "".join(map(_CONTENT, chunks))
        if text:
            batch.append(TextDelta(text, (), len(chunks)))

    def _events(self, events: list[sse.Event], batch: Batch) -> bool:
        """The same for events of any form."""
        for name, payload in events:
            if name:
                raise stream_error(payload)
            if self._event(payload, batch):
                return True
        return False

    def _event(self, payload: bytes, batch: Batch) -> bool:
        """Add what an event of the stream says; True after the last."""
        return self._take(servercpp.chunk(payload), batch)

    def _take(self, chunk: servercpp.Chunk, batch: Batch) -> bool:
        """Turn a chunk into events; True after the last."""
        if chunk.error is not None:
            raise stream_error(msgspec.json.encode({"error": chunk.error}))
        if not self.begun:
            self.begun = True
            self.slot = slot = chunk.slot
            self.cached = chunk.cached
            batch.append(Started(slot=slot))
        if chunk.stop:
            if chunk.content:
                batch.append(TextDelta(chunk.content))
            batch.append(self._finished(chunk))
            return True
        progress = chunk.prompt_progress
        if progress is not None:
            batch.append(Progress(progress.total, progress.cache, progress.processed))
            return False
        if chunk.tokens_predicted:
            self.pieces = chunk.tokens_predicted
            self.prompt_tokens = chunk.tokens_evaluated
        else:
            self.pieces += 1
        if self.pieces > self._limit and not self._caps.queues:
            return False
        if chunk.content or self._top is not None:
            logprobs = (
                servercpp.logprobs(chunk.completion_probabilities, self._top)
                if self._top is not None and chunk.completion_probabilities
                else ()
            )
            batch.append(TextDelta(chunk.content, logprobs))
        return False

    def _finished(self, chunk: servercpp.Chunk) -> Finished:
        reason = chunk.finish_reason
        predicted = chunk.tokens_predicted
        if not self._caps.queues:
            if chunk.stopped_limit:
                predicted += 1
            if predicted > self._limit:
                predicted, reason = self._limit, "length"
        slot = chunk.slot
        if slot >= 0:
            self.slot = slot
        cached = chunk.cached
        return Finished(
            reason,
            Usage(chunk.tokens_evaluated, predicted, cached),
            servercpp.times(chunk.timings, cached),
            self.slot,
            chunk.truncated,
            chunk.stopping_word,
        )

    def _drain(self) -> None:
        """Read the end of the body, if it is there already, so that the connection is kept."""
        self._exchange.finish(0.02)


def refusal(status: int, data: bytes) -> GatewayError:
    """The error for an answer that is not 200, in any generation's form."""
    try:
        error = msgspec.json.decode(data, type=_ErrorBody).error
    except msgspec.DecodeError:
        text = data[:200].decode("utf-8", "replace")
        if status == 404 and (not text or "File Not Found" in text or "slot unavailable" in text):
            return BackendBusy("the backend has no free slot", detail=text)
        return UpstreamFault("the backend failed", detail=f"{status} {text}")
    if isinstance(error, str):
        return UpstreamFault("the backend failed", detail=f"{status} {error[:200]}")
    if error.type == "exceed_context_size_error":
        return ContextExceeded(error.n_prompt_tokens, error.n_ctx)
    if status == 400:
        return BadRequest(f"the backend refused the request: {error.message[:300]}")
    if status == 501:
        return Unsupported(f"the backend cannot do this: {error.message[:300]}")
    if status == 503:
        return BackendDown("the backend is not ready", detail=error.message[:200])
    return UpstreamFault("the backend failed", detail=f"{status} {error.message[:200]}")


def stream_error(data: bytes) -> GatewayError:
    """The error for an error event inside a stream."""
    if b"slot unavailable" in data:
        return BackendBusy("the backend has no free slot", detail="slot unavailable")
    try:
        error = msgspec.json.decode(data, type=_ErrorBody).error
    except msgspec.DecodeError:
        error = data[:200].decode("utf-8", "replace")
    if isinstance(error, str):
        return UpstreamFault("the backend failed", detail=error)
    return refusal(error.code, msgspec.json.encode({"error": error}))


class _ErrorBody(msgspec.Struct):
    error: servercpp.WireError | str
