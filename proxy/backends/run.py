"""A completion stream of server.cpp as a `Run`.

Chunks are read by `_event`, which a subclass replaces for another format. No backend can keep a run
alive forever: silence ends it after the timeout, and a stream that continues after its last token
(see `SURPLUS`), or has more text than its tokens can hold, is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic

import msgspec

from ..core.events import Batch, Finished, Progress, Started, TextDelta, TokenDetail
from ..core.request import Report
from ..core.task import Task
from ..core.usage import Timings, Usage
from ..errors import AnswerCut, GatewayError, UpstreamFault, UpstreamTimeout
from ..wire import servercpp, sse
from ..wire.lenient import WireFault
from .driver import Capabilities
from .http import Exchange
from .refusals import MAX_BODY, check_cost, refusal, stream_error

EMPTY = "the backend returned an empty response"
# Seconds for which the tokens of an answer that is not streamed are gathered: no client waits for a
# single one, and a batch costs a seventh. The end of the answer is never delayed.
GATHER = 0.02

# Pieces of text that a server may send after the last requested token: an old one sends one more,
# and at least four. A stream that continues after them does not end by itself.
SURPLUS = 8
# Mean characters per token, at most, and a tolerance beyond that. The longest tokens of common
# vocabularies are runs of some hundred spaces.
TOKEN_TEXT = 256
FORGIVEN_TEXT = 1 << 14

NO_REPORT = Report()


class LlamaRun:
    slot = -1
    begun = False
    pieces = prompt_tokens = cached = 0
    _last = b""  # the newest chunk of text, which has the counts if the server reports them
    _cut = False  # ended by us because the server would continue
    # Tokens with details in the answer stay separate; others may be joined. What no request for
    # details changes:
    _top: int | None = None
    _report = NO_REPORT
    _single = False
    _frames: type[sse.Decoder] = sse.Decoder
    _decode: Callable[[bytes], servercpp.Chunk] = staticmethod(servercpp.chunk)

    def __init__(
        self,
        exchange: Exchange,
        task: Task,
        caps: Capabilities,
        secret: str = "",
        explain: Callable[[], GatewayError] | None = None,
    ) -> None:
        """`secret` is the backend's key, for no message. `explain` tells why nothing came."""
        self._exchange = exchange
        self.close = exchange.close
        self._secret = secret
        self._explain = explain
        self._task = task
        self._caps = caps
        self._limit = self._left = limit = task.max_tokens or 0  # `_left`: pieces of text, and
        self._room = limit * TOKEN_TEXT + FORGIVEN_TEXT  # characters that may still arrive
        report = task.request.report
        if task.logprobs is not None or report != NO_REPORT:
            self._top, self._report = task.logprobs, report
            self._single = task.logprobs is not None or report.timings or report.tokens
            if report.tokens or report.settings:
                self._decode = servercpp.detailed_chunk

    def usage(self) -> Usage:
        if self._last:
            last = self._decode(self._last)
            if last.tokens_predicted:
                self.pieces, self.prompt_tokens = last.tokens_predicted, last.tokens_evaluated
            else:
                self.pieces = self._limit - self._left
        return Usage(self.prompt_tokens, self.pieces, self.cached)

    def __iter__(self) -> Iterator[Batch]:
        exchange = self._exchange
        since = ticked = 0.0  # when the silence began, and when the last tick was given in it
        gather = 0.0 if self._task.request.stream else GATHER
        decoder = self._frames()
        try:
            while True:
                if self.begun:
                    data = exchange.read(gather)
                else:
                    data = exchange.read()
                    if exchange.status not in (0, 200):
                        data = data or b""
                        data += exchange.read_all(exchange.tick, MAX_BODY - len(data))
                        raise self._refused(exchange.status, data)
                if data is None:
                    since = self._silent(since, exchange.tick)
                    ticked = 0.0
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
                    if batch:  # the client gets what came before the fault
                        yield batch
                    raise
                if self._room < 0:
                    raise WireFault("more text than its tokens can represent")
                if batch:
                    since = ticked = 0.0
                    yield batch
                if over:
                    if not self._cut:
                        exchange.finish(0.02)  # so that the connection can be reused
                    return
                if not data:
                    if not self.begun:
                        raise self._explain() if self._explain else UpstreamFault(EMPTY)
                    raise AnswerCut(
                        "the backend's response ended early", detail="final chunk missing"
                    )
                if not batch:  # a comment, or an incomplete event
                    since = self._silent(since, 0.0)
                    now = monotonic()
                    ticked = ticked or now
                    if now - ticked >= exchange.tick:
                        ticked = now
                        yield []
        except (sse.SSEError, WireFault) as error:
            raise UpstreamFault(
                "the backend returned an invalid response", detail=str(error)
            ) from None
        finally:
            exchange.close()

    def _refused(self, status: int, data: bytes) -> GatewayError:
        return refusal(status, data, secret=self._secret, completion=True)

    def _silent(self, since: float, seconds: float) -> float:
        """When the silence began that now lasts so many seconds more. Raises UpstreamTimeout."""
        now = monotonic()
        since = since or now - seconds
        if now - since >= self._exchange.timeout - 0.001:  # ticks are not exact
            raise UpstreamTimeout("the backend timed out")
        return since

    def _plain(self, payloads: list[bytes], batch: Batch) -> bool:
        """Add the events of one read to the batch. True after the last event. Text that came
        together is one delta, which costs as much as one token on its way to the client."""
        if len(payloads) == 1:
            return self._event(payloads[0], batch)
        if self._single:
            return any(self._event(payload, batch) for payload in payloads)
        try:
            texts = servercpp.texts(payloads)
        except WireFault:  # one chunk has another form: parse them one by one
            return any(self._event(payload, batch) for payload in payloads)
        pieces: list[str] = []
        for text in texts:  # attrgetter takes twice as long
            if text.stop:
                break
            pieces.append(text.content)
        end = len(pieces)
        if end and self._text(payloads, pieces, batch):
            return True
        return end < len(texts) and self._event(payloads[end], batch)

    def _text(self, payloads: list[bytes], pieces: list[str], batch: Batch) -> bool:
        """Add the text of the first chunks without the surplus. True if the run is cut."""
        if not self.begun:
            self._begin(self._decode(payloads[0]), batch)
        count = len(pieces)
        self._last, self._left = payloads[count - 1], self._left - count
        left = self._left
        if left < 0:
            count = max(0, count + left)
            pieces = pieces[:count]
        text = "".join(pieces)
        if text:
            self._room -= len(text)
            batch.append(TextDelta(text, (), count))
        return left < -SURPLUS and self._ended(batch)

    def _ended(self, batch: Batch) -> bool:
        """End a run whose own end is not waited for, with our own counts."""
        usage = self.usage()
        if usage.completion > self._limit:
            usage = msgspec.structs.replace(usage, completion=self._limit)
        batch.append(Finished(reason="length", usage=usage, slot=self.slot))
        self._cut = True
        return True

    def _events(self, events: list[sse.Event], batch: Batch) -> bool:
        """Add events of any form. True after the last event."""
        for name, data in events:
            payload = servercpp.without_repeated(data)
            check_cost(payload)
            if name:
                raise stream_error(payload, secret=self._secret)
            if self._event(payload, batch):
                return True
        return False

    def _event(self, payload: bytes, batch: Batch) -> bool:
        """Add one event of the stream. True after the last."""
        chunk = self._decode(payload)
        if chunk.error is not None:
            raise stream_error(chunk.error, secret=self._secret)
        if not self.begun:
            self._begin(chunk, batch)
        if chunk.stop:
            if chunk.content:
                self._room -= len(chunk.content)
                batch.append(TextDelta(chunk.content))
            batch.append(self._finished(chunk))
            return True
        if chunk.prompt_progress is not None:
            batch.append(self._progress(chunk.prompt_progress, chunk.timings))
            return False
        self._last = payload
        self._left = left = self._left - 1
        if left < 0:
            return left < -SURPLUS and self._ended(batch)
        text = chunk.content
        if text:
            self._room -= len(text)
        if self._single:
            self._detailed(chunk, batch)
        elif text:
            batch.append(TextDelta(text))
        return False

    def _detailed(self, chunk: servercpp.Chunk, batch: Batch) -> None:
        """Add a token with what is reported about it."""
        if self._top is not None:
            logprobs = servercpp.logprobs(chunk.completion_probabilities, self._top)
            batch.append(TextDelta(chunk.content, logprobs))
        elif chunk.content:
            batch.append(TextDelta(chunk.content))
        timings = self._timings(chunk.timings)
        tokens: tuple[int, ...] = ()
        if self._report.tokens and isinstance(chunk, servercpp.DetailedChunk):
            tokens = chunk.tokens
        if timings is not None or tokens:
            batch.append(TokenDetail(timings, tokens))

    def _begin(self, chunk: servercpp.Chunk, batch: Batch) -> None:
        self.begun = True
        self.slot = slot = chunk.id_slot if chunk.id_slot >= 0 else chunk.slot_id
        prompt, progress = chunk.tokens_evaluated, chunk.prompt_progress
        if progress is not None:
            self.cached, prompt = progress.cache, progress.total
        elif chunk.timings is not None:
            self.cached = chunk.cached
        self.prompt_tokens = prompt
        batch.append(Started(slot, prompt))

    def _progress(
        self, progress: servercpp.WireProgress, timings: servercpp.WireTimings | None
    ) -> Progress:
        return Progress(
            progress.total,
            progress.cache,
            progress.processed,
            progress.time_ms or 0.0,
            self._timings(timings),
        )

    def _timings(self, timings: servercpp.WireTimings | None) -> Timings | None:
        """The times so far, if requested and reported."""
        if timings is None or not self._report.timings:
            return None
        return servercpp.times(timings, max(0, timings.cache_n))

    def _finished(self, chunk: servercpp.Chunk) -> Finished:
        reason = chunk.finish_reason
        predicted = chunk.tokens_predicted
        if not self._caps.queues:
            if chunk.stopped_limit:
                predicted += 1
            if predicted > self._limit:
                predicted, reason = self._limit, "length"
        if self.slot < 0:
            self.slot = chunk.slot
        cached = chunk.cached
        finished = Finished(
            reason=reason,
            usage=Usage(chunk.tokens_evaluated, predicted, cached),
            timings=servercpp.times(chunk.timings, cached),
            slot=self.slot,
            truncated=chunk.truncated,
            stop_sequence=chunk.stopping_word,
        )
        if self._report.settings and isinstance(chunk, servercpp.DetailedChunk):
            prompt = chunk.prompt if isinstance(chunk.prompt, str) else None
            settings = chunk.generation_settings
            return msgspec.structs.replace(finished, settings=settings, prompt=prompt)
        return finished
