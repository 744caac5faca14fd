"""A stream of server.cpp as a Run.

What a stream says is read by `_event`, which is all that another form of chunks needs to replace.

Nothing that a backend does keeps a run alive for ever: silence ends it after a while, and a stream
that goes on behind its last token is cut (see `SURPLUS`), as is one with more text than its tokens
can hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from time import monotonic

from ..core.events import Batch, Finished, Progress, Started, TextDelta, TokenDetail
from ..core.task import Task
from ..core.usage import Timings, Usage
from ..errors import AnswerCut, BackendBusy, GatewayError, UpstreamFault, UpstreamTimeout
from ..wire import servercpp, sse
from ..wire.lenient import WireFault
from .cost import check_cost
from .driver import Capabilities
from .http import Exchange
from .refusals import MAX_BODY, refusal, stream_error

# Seconds for which the tokens of an answer that is not streamed are gathered: nobody waits for a
# single one, and what is done together costs a seventh. The end of the answer is never waited for.
GATHER = 0.02

# Pieces of text that a server may send behind the last token it was asked for: an old one gives a
# piece more, and never fewer than four. A stream that goes on behind them does not end by itself.
SURPLUS = 8
# Characters that the text of a token has at most, on average, and what is forgiven beyond that. The
# longest tokens of common vocabularies are runs of some hundred spaces.
TOKEN_TEXT = 256
FORGIVEN_TEXT = 1 << 14

# What of a chunk says whether it is more than text. Read for all chunks of a batch in one go, since
# a loop over them is what a fast answer would cost most.
_KIND = attrgetter("stop", "error", "prompt_progress")
_TEXT = (False, None, None)
_CONTENT = attrgetter("content")


class Run:
    """One completion under way: an iterable of batches, and what was counted so far."""

    def __init__(
        self,
        exchange: Exchange,
        task: Task,
        caps: Capabilities,
        timeout: float,
        tick: float,
        secret: str = "",
    ) -> None:
        """`secret` is the backend's key, which no message may hold."""
        self._exchange = exchange
        self._secret = secret
        self._task = task
        self._caps = caps
        self._timeout = timeout
        self._tick = tick
        self._top = task.logprobs
        self._limit = limit = task.max_tokens or 0
        self._left = limit  # pieces of text that may still come
        self._room = limit * TOKEN_TEXT + FORGIVEN_TEXT  # characters that may still come
        self._cut = False  # ended by us: the server would go on
        self._report = report = task.request.report
        # Tokens of which something is reported come one by one, never joined.
        self._details = report.by_token
        self._single = task.logprobs is not None or self._details
        self._decode = (
            servercpp.detailed_chunk if report.tokens or report.settings else servercpp.chunk
        )
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
        since = told = 0.0  # when silence began, and when the last sign of life was given in it
        gather = 0.0 if self._task.request.stream else GATHER
        decoder = sse.Decoder()
        try:
            while not exchange.headers_came():
                since = self._silent(since, self._tick)
                yield []
            if exchange.status != 200:
                status = exchange.status
                told_why = exchange.read_all(self._tick, MAX_BODY)
                raise refusal(status, told_why, secret=self._secret, completion=True)
            while True:
                data = exchange.read(gather if self.begun else 0.0)
                if data is None:
                    since = self._silent(since, self._tick)
                    told = 0.0
                    yield []
                    continue
                batch: Batch = []
                try:
                    plain = decoder.plain(data)
                    if plain is not None:
                        over = self._plain(plain, batch)
                    else:
                        over = self._events(decoder.feed(data) if data else decoder.close(), batch)
                except (GatewayError, sse.SSEError, WireFault):
                    if batch:  # what came before the fault is the client's
                        yield batch
                    raise
                if batch:
                    since = told = 0.0
                    yield batch
                if over:
                    self._drain()
                    return
                if not data:
                    if not self.begun:
                        raise BackendBusy("the backend has no free slot", detail="empty answer")
                    raise AnswerCut("the backend's answer broke off", detail="no last chunk")
                if not batch:  # a comment, or a part of an event, says nothing
                    since = self._silent(since, 0.0)
                    now = monotonic()
                    told = told or now
                    if now - told >= self._tick:
                        told = now
                        yield []
        except (sse.SSEError, WireFault) as error:
            raise UpstreamFault("the backend's answer is garbled", detail=str(error)) from None
        finally:
            exchange.close()

    def _silent(self, since: float, seconds: float) -> float:
        """When the silence began that lasted so many seconds more. Raises UpstreamTimeout."""
        now = monotonic()
        since = since or now - seconds
        if now - since >= self._timeout - 0.001:  # a tick is not exact
            raise UpstreamTimeout("the backend did not answer in time")
        return since

    def _plain(self, payloads: list[bytes], batch: Batch) -> bool:
        """Add what the events of one read say; True after the last event.

        Text that came together is one delta: from here to the client it then costs what one token
        does. That a token may be short of a whole batch costs nobody anything."""
        if len(payloads) == 1:
            return self._take(self._decode(payloads[0]), batch)
        if self._single:
            return any(self._event(payload, batch) for payload in payloads)
        try:
            chunks = servercpp.chunks(payloads)
        except WireFault:  # one of them is odd: by itself it may make sense
            return any(self._event(payload, batch) for payload in payloads)
        if not self.begun:
            if self._take(chunks[0], batch):
                return True
            del chunks[0]
        kinds = list(map(_KIND, chunks))
        more = len(kinds) - kinds.count(_TEXT)
        if not more:
            return self._text(chunks, batch)
        if more == 1 and kinds[-1] != _TEXT:  # nearly always
            last = chunks.pop()
            self._text(chunks, batch)
            if self._decode is not servercpp.chunk:
                last = self._decode(payloads[-1])
            return self._take(last, batch)
        first = next(i for i, kind in enumerate(kinds) if kind != _TEXT)
        self._text(chunks[:first], batch)
        rest = payloads[first - len(chunks) :]
        return any(self._event(payload, batch) for payload in rest)

    def _text(self, chunks: list[servercpp.Chunk], batch: Batch) -> bool:
        """Add the text of plain chunks, without the surplus; True where the run is cut."""
        if not chunks:
            return False
        last = chunks[-1]
        if last.tokens_predicted:
            self.pieces = last.tokens_predicted
            self.prompt_tokens = last.tokens_evaluated
        else:
            self.pieces += len(chunks)
        self._left = left = self._left - len(chunks)
        if left < 0:
            chunks = chunks[: max(0, len(chunks) + left)]
        text = "".join(map(_CONTENT, chunks))
        if text:
            self._holds(len(text))
            batch.append(TextDelta(text, (), len(chunks)))
        return left < -SURPLUS and self._ended(batch)

    def _holds(self, size: int) -> None:
        """So many characters came. Raises WireFault where that is more than all tokens can be."""
        self._room = room = self._room - size
        if room < 0:
            raise WireFault("more text than its tokens can hold")

    def _ended(self, batch: Batch) -> bool:
        """End a run that does not end by itself, by our own counts."""
        usage = Usage(self.prompt_tokens, min(self.pieces, self._limit), self.cached)
        batch.append(Finished("length", usage, slot=self.slot))
        self._cut = True
        return True

    def _events(self, events: list[sse.Event], batch: Batch) -> bool:
        """The same for events of any form."""
        for name, payload in events:
            check_cost(payload)
            if name:
                raise stream_error(payload, secret=self._secret)
            if self._event(payload, batch):
                return True
        return False

    def _event(self, payload: bytes, batch: Batch) -> bool:
        """Add what an event of the stream says; True after the last."""
        return self._take(self._decode(payload), batch)

    def _take(self, chunk: servercpp.Chunk, batch: Batch) -> bool:
        """Turn a chunk into events; True after the last."""
        if chunk.error is not None:
            raise stream_error(chunk.error, secret=self._secret)
        if not self.begun:
            self.begun = True
            self.slot = slot = chunk.slot
            self.cached, prompt = chunk.cached, chunk.tokens_evaluated
            if chunk.prompt_progress is not None:
                self.cached, prompt = chunk.prompt_progress.cache, chunk.prompt_progress.total
            self.prompt_tokens = prompt
            batch.append(Started(slot=slot, prompt=prompt))
        if chunk.stop:
            if chunk.content:
                self._holds(len(chunk.content))
                batch.append(TextDelta(chunk.content))
            batch.append(self._finished(chunk))
            return True
        if chunk.prompt_progress is not None:
            batch.append(self._progress(chunk.prompt_progress, chunk.timings))
            return False
        if chunk.tokens_predicted:
            self.pieces = chunk.tokens_predicted
            self.prompt_tokens = chunk.tokens_evaluated
        else:
            self.pieces += 1
        self._left = left = self._left - 1
        if left < 0:
            return left < -SURPLUS and self._ended(batch)
        self._holds(len(chunk.content))
        if chunk.content or self._top is not None:
            logprobs = (
                servercpp.logprobs(chunk.completion_probabilities, self._top)
                if self._top is not None and chunk.completion_probabilities
                else ()
            )
            batch.append(TextDelta(chunk.content, logprobs))
        if self._details:
            self._detail(chunk, batch)
        return False

    def _progress(
        self, told: servercpp.WireProgress, timings: servercpp.WireTimings | None
    ) -> Progress:
        return Progress(
            told.total, told.cache, told.processed, told.time_ms or 0.0, self._timings(timings)
        )

    def _timings(self, told: servercpp.WireTimings | None) -> Timings | None:
        """The times so far, where they are wanted and told."""
        if told is None or not self._report.timings:
            return None
        return servercpp.times(told, max(0, told.cache_n))

    def _detail(self, chunk: servercpp.Chunk, batch: Batch) -> None:
        """Add what the request wants to know of this token."""
        timings = self._timings(chunk.timings)
        tokens = chunk.tokens if isinstance(chunk, servercpp.DetailedChunk) else ()
        if timings is not None or tokens:
            batch.append(TokenDetail(timings, tokens if self._report.tokens else ()))

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
        settings = prompt = None
        if isinstance(chunk, servercpp.DetailedChunk) and self._report.settings:
            settings = chunk.generation_settings
            prompt = chunk.prompt if isinstance(chunk.prompt, str) else None
        return Finished(
            reason,
            Usage(chunk.tokens_evaluated, predicted, cached),
            servercpp.times(chunk.timings, cached),
            self.slot,
            chunk.truncated,
            chunk.stopping_word,
            settings,
            prompt,
        )

    def _drain(self) -> None:
        """Read the end of the body, if it is there already, so that the connection is kept."""
        if not self._cut:
            self._exchange.finish(0.02)
