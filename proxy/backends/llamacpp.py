"""The driver for server.cpp: PowerInfer's and llama.cpp's of 2023, today's llama-server, and those
in between.

Upstream requests are always streamed, since only closing a stream frees the slot. The probe's
result (`Capabilities`) decides the field names and the workarounds: an old server sends one piece
more than n_predict, and at least four, so it is asked for one less; a busy one says so in four ways
(404 text, an empty 200, a line `error: …`, a JSON error), which all are BackendBusy.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from ..core.decoding import decoded_object
from ..core.sampling import LATER, OLD_REPEAT_LAST_N, needed
from ..core.task import TIMED, Call, CallMaker, Embedded, Ranked, Task, usage_heard
from ..errors import (
    BackendBusy,
    BackendFailed,
    CharacterCut,
    GatewayError,
    Unsupported,
    UpstreamFault,
)
from ..prompting.profile.verify import MAX_PROMPT
from ..runtime.cancel import Cancel
from ..wire import hearing, servercpp
from . import relay
from .connections import ConnectionLimit
from .driver import Capabilities, Input, OnCapabilities, Run, SlotAction, ignore
from .http import ConnectionPool, ForwardedAnswer
from .http_server import PATIENCE, Counted, HTTPDriver, check_vectors, decoded_as, recording
from .probe import outline, probe
from .refusals import check_cost
from .run import EMPTY, NO_REPORT, LlamaRun
from .tokens import BrokenPrompts, Part

NO_TIMES = (
    "response_format {} needs times, which llama-server does not know: use json or text, or a model"
    " of whisper.cpp"
)
OLD_LEAST = 4  # pieces that an old server sends at least, whatever n_predict is
# Connections to an old server: it has a thread for each, and at least eight. Set `slots` for one
# with more.
OLD_CONNECTIONS = 8
OLD_RESERVE = 1  # of them for health and tokenize, which must not wait for answers to end
OLD_IDLE = 2
ALIVE_TIMEOUT = 5.0
# A slot is free about 5 ms after its answer. Until then, a server with one slot is busy.
FREED = 0.02  # seconds
FREED_TRIES = 5
MOST_EMPTY = 5  # empty streams in a row of a server that claims to have a free slot
COUNT_TIMEOUT = 5.0  # seconds; without -cb, the answer waits until nothing else runs
PROMPT_TIMEOUT = 5.0  # seconds for a prompt
METRICS_TIMEOUT = 1.0  # seconds; the server answers between two batches of its work
NOT_UTF8 = "type_error.316"  # of the JSON library of an old server, in its 500
# The fields of the last chunk that are read here.
TRIMMED = (
    "content stop id_slot tokens_predicted tokens_evaluated stop_type stopping_word truncated"
    " timings"
).split()
Gift = Literal["embeddings", "rankings"]
SETTINGS = [*TRIMMED, "generation_settings", "prompt"]


class _Answered(msgspec.Struct):
    slot_id: int


class _Settings(msgspec.Struct):
    logit_bias: list[tuple[int, float]]


class _Repeated(msgspec.Struct):
    generation_settings: _Settings


class _OldVector(msgspec.Struct):
    embedding: list[float]


class _Score(msgspec.Struct):
    index: int
    relevance_score: float


class _Ranking(msgspec.Struct):
    results: list[_Score]
    usage: Counted = Counted()


class LlamaCpp(HTTPDriver):
    """A driver for one server.cpp at `url`. `model_file`: see `probe`. `slots`: as configured."""

    def __init__(
        self, url: str, *, model_file: bool = True, slots: int = 0, **options: Any
    ) -> None:
        super().__init__(url, **options)
        self.options = options
        self.model_file = model_file
        self._pool = self.new_pool(idle=256)
        self._connections = max(OLD_CONNECTIONS, slots + OLD_RESERVE + 1)
        self._limit = ConnectionLimit(self._connections, OLD_RESERVE)
        self._careful: ConnectionPool = self.new_pool(limit=self._limit, idle=OLD_IDLE)
        self._root = self._careful
        self._counting = threading.Lock()
        self._vocabulary = 0  # its size, once it was counted
        self._broken = BrokenPrompts(self._tokenize_parts)

    def probe(self, deadline: float, on_capabilities: OnCapabilities = ignore) -> Capabilities:
        self._broken = BrokenPrompts(self._tokenize_parts)  # it may have another model
        self._vocabulary = 0
        return probe(self.url, self._careful, deadline, on_capabilities, model_file=self.model_file)

    def count_slots(self) -> int:
        return min(count_slots(self._slot_that_answers), self._connections - OLD_RESERVE)

    def _slot_that_answers(self, slot: int) -> int | None:
        """The slot that takes a request for slot `slot`; None if that is busy or not named."""
        data = self._answer_to_nothing(slot_id=slot)
        with contextlib.suppress(msgspec.DecodeError):
            return None if data is None else msgspec.json.decode(data, type=_Answered).slot_id
        return None

    def n_vocab(self) -> int:
        with self._counting:
            self._vocabulary = self._vocabulary or counted(self._existing)
            return self._vocabulary

    def _existing(self, ids: Sequence[int]) -> set[int]:
        """The ids among `ids` that an old server recognizes. Raises BackendBusy."""
        data = self._answer_to_nothing(logit_bias=[[token, 0.0] for token in ids])
        if data is None:
            raise BackendBusy("the vocabulary cannot be read: the backend has no free slot")
        check_cost(data)
        try:
            settings = msgspec.json.decode(data, type=_Repeated).generation_settings
        except msgspec.DecodeError:
            return set()
        return {token for token, _ in settings.logit_bias}

    def _answer_to_nothing(self, **fields: Any) -> bytes | None:
        """The answer of `_nothing`, None if the slot stays busy."""
        with contextlib.suppress(GatewayError):
            for _ in range(FREED_TRIES):
                status, data = self._nothing(**fields)
                if status == 200:
                    return data
                time.sleep(FREED)
        return None

    def alive(self) -> bool:
        full = self._limit.used >= OLD_CONNECTIONS
        status = self.status_of("/props", ALIVE_TIMEOUT)
        # Answers may have all of an old server's threads. They end soon, or fail, if it is down.
        full |= self._limit.used >= OLD_CONNECTIONS
        return status in (200, 401, 403, 404) or (full and not status)

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> Run:
        if not (task.backend_templates or caps.modern_sampling):
            task = self._with_token_ids(task, cancel)
        body = relay.payload(task, slot) if task.backend_templates else payload(task, slot, caps)
        if caps.queues and task.request.max_tokens is None and body["n_predict"] >= caps.n_ctx > 0:
            # Nobody asked for a length: a newer server then ends at its own `-n`, which it reports
            # nowhere, or at the end of its context.
            del body["n_predict"]
        if task.backend_templates:
            exchange = self._pool.send("POST", relay.PATH, body, cancel, self._tick)
            return relay.RelayRun(exchange, task, caps, self._secret, slot=slot)
        path = "/completion" if task.suffix is None else "/infill"
        if task.breaks:
            body["prompt"] = self.in_parts(task, cancel)
        pool, explain = (self._pool, None) if caps.queues else (self._careful, self._why_empty)
        exchange = pool.send("POST", path, body, cancel, self._tick, patience=PATIENCE)
        return LlamaRun(exchange, task, caps, self._secret, explain)

    def _why_empty(self) -> GatewayError:
        """Why a stream was empty. So a PowerInfer says that it is busy; asked for a whole answer,
        it then has another status. A broken server has nothing again, or claims a free slot."""
        busy = BackendBusy("the backend has no free slot", detail="empty response")
        try:
            for _ in range(MOST_EMPTY):
                status, whole = self._nothing()
                if status != 200:
                    return busy
                msgspec.json.decode(whole, type=_Answered)
                if self._nothing(stream=True)[1]:
                    return busy  # it was, and has a free slot now
                time.sleep(FREED)
        except GatewayError:
            return busy  # without -cb, the answer waits until nothing else runs
        except msgspec.DecodeError:
            pass
        return UpstreamFault(EMPTY)

    def _nothing(self, **fields: Any) -> tuple[int, bytes]:
        """An old server's answer to an empty prompt, which leaves the slot's content."""
        body = {**NOTHING, **fields}
        return self._careful.ask("POST", "/completion", body, COUNT_TIMEOUT, short=True)

    def in_parts(self, task: Task, cancel: Cancel | None = None) -> list[str | int]:
        if not task.breaks or not isinstance(task.prompt, str):
            return super().in_parts(task, cancel)
        return self._broken.parts(task.prompt, task.breaks, task.stop_tokens, cancel)

    def _with_token_ids(self, task: Task, cancel: Cancel) -> Task:
        """Replace the strings in logit_bias by their token ids: an old server accepts no others."""
        pairs = task.sampling.get("logit_bias")
        if not pairs or all(type(token) is int for token, _ in pairs):
            return task
        by_id = [
            [number, bias]
            for token, bias in pairs
            for number in ([token] if type(token) is int else self.tokenize(token, cancel=cancel))
        ]
        sampling = {**task.sampling, "logit_bias": by_id}
        return msgspec.structs.replace(task, sampling=sampling)

    def tokenize(self, text: str, special: bool = False, cancel: Cancel | None = None) -> list[int]:
        body = {"content": text, "add_special": True} if special else {"content": text}
        return self._ids("/tokenize", body, cancel)

    def _tokenize_parts(self, parts: list[Part], cancel: Cancel | None) -> list[int]:
        return self._ids("/tokenize", {"content": parts}, cancel)

    def pieces(self, text: str, special: bool) -> list[tuple[int, bytes]]:
        body = {"content": text, "add_special": special, "with_pieces": True}
        tokens = self._value("/tokenize", body, "tokens")
        if isinstance(tokens, list) and tokens and type(tokens[0]) is int:
            return super().pieces(text, special)  # an old server, which ignores with_pieces
        try:
            return [
                (t.id, t.piece.encode() if isinstance(t.piece, str) else bytes(t.piece))
                for t in msgspec.convert(tokens, list[servercpp.ChunkPiece])
            ]
        except (msgspec.ValidationError, ValueError):
            raise UpstreamFault("the backend returned invalid tokens") from None

    def detokenize(self, tokens: list[int]) -> str:
        try:
            return self._text("/detokenize", {"tokens": tokens}, "content")
        except BackendFailed as error:
            if NOT_UTF8 in error.detail:
                raise CharacterCut(
                    "this model's backend cannot convert these token ids to text: they contain"
                    " part of a character. Send all tokens of the character",
                    detail=error.detail,
                ) from None
            raise

    def embed(self, inputs: Sequence[Input], caps: Capabilities, cancel: Cancel) -> Embedded:
        """A server of 2023 takes one text, and returns zeros without --embedding."""
        if caps.queues:
            return super().embed(inputs, caps, cancel)
        (text,) = inputs
        data = self._ask("/embedding", {"content": text}, cancel)
        if b"slot unavailable" in data[:100]:
            raise BackendBusy("the backend has no free slot", detail="slot unavailable")
        vector = decoded_as(data, _OldVector).embedding
        check_vectors([vector])
        return Embedded((vector,), 0)

    def rerank(
        self, query: str, documents: Sequence[str], caps: Capabilities, cancel: Cancel
    ) -> Ranked:
        if not caps.queues:
            raise Unsupported(
                f"reranking is not supported by this backend (server.cpp, {caps.dialect})"
            )
        body = {"query": query, "documents": documents}
        answer = decoded_as(self._ask("/v1/rerank", body, cancel), _Ranking)
        scores = {score.index: score.relevance_score for score in answer.results}
        if set(scores) != set(range(len(documents))):
            raise UpstreamFault("the backend did not return one score per document")
        return Ranked(tuple(scores[i] for i in range(len(documents))), answer.usage.prompt_tokens)

    def forward(self, make: CallMaker, cancel: Cancel) -> ForwardedAnswer:
        """Raises Unsupported for a transcription with times."""
        call = make(self._model)
        form = recording(call)
        if form is None:
            return self._forwarded(call, cancel)
        request = form.hearing()
        if request.format in TIMED:
            raise Unsupported(NO_TIMES.format(request.format), param="response_format")
        body = form.written(hearing.llama_fields(request, self._model))
        answer = self._forwarded(Call("POST", call.path, call.headers, body), cancel)
        if answer.status not in (200, 404, 501):  # of the last two, the route says what to do
            raise self._refusal(answer.status, answer.read_all())
        if request.format != "json" and not request.stream and answer.status == 200:
            data = answer.read_all()
            heard = decoded_as(data, hearing.Heard)
            answer.rewrite(*hearing.reply(heard, request), usage_heard(data))
        return answer

    def slot_action(
        self, action: SlotAction, slot: int, file: str, seconds: float | None = None
    ) -> tuple[int, int]:
        body = {"filename": file} if file else {}
        data = self._post(
            self._careful, f"/slots/{slot}?action={action}", body, short=True, timeout=seconds
        )
        moved = decoded_as(data, servercpp.SlotMoved)
        return moved.n_saved or moved.n_restored, moved.n_written or moved.n_read

    def server_prompt(self, task: Task) -> str | None:
        body = relay.payload(task, 0)
        status, data = self._root.ask("POST", "/apply-template", body, PROMPT_TIMEOUT, short=True)
        if status == 404:
            raise Unsupported("this model's backend does not render prompts")
        if status != 200:
            return None
        prompt = (decoded_object(data) or {}).get("prompt")
        if not isinstance(prompt, str) or len(prompt) > MAX_PROMPT:
            raise UpstreamFault("the backend returned an invalid prompt")
        return prompt

    def counters(self) -> dict[str, float]:
        status, data = self._root.ask("GET", "/metrics", timeout=METRICS_TIMEOUT)
        return servercpp.counters(data) if status == 200 else {}


class EmbeddingServer(LlamaCpp):
    """A server.cpp that is only used for `gift`. Many embedding models cannot generate a token."""

    gift: Gift = "embeddings"

    def probe(self, deadline: float, on_capabilities: OnCapabilities = ignore) -> Capabilities:
        """Raises Unsupported, too."""
        caps = outline(self._careful)
        on_capabilities(caps)
        if self.gift == "embeddings":
            self.embed(("Hi",), caps, Cancel())
        else:
            self.rerank("Hi", ("Hello",), caps, Cancel())
        return msgspec.structs.replace(caps, embeddings=True)


def payload(task: Task, slot: int, caps: Capabilities) -> dict[str, Any]:
    """The body for /completion or /infill. `task.max_tokens` must be finite, since an unbounded
    prompt hangs an old server. Raises Unsupported for fields that the server does not support."""
    n = task.max_tokens
    assert n is not None, "the gateway bounds every answer"
    body: dict[str, Any] = {
        "prompt": task.prompt,
        "stream": True,
        "cache_prompt": True,
        caps.slot_field: slot,
        "n_predict": n if caps.queues or n < OLD_LEAST else n - 1,
    }
    if task.suffix is not None:
        del body["prompt"]
        body["input_prefix"], body["input_suffix"] = task.prompt, task.suffix
        body.update(task.request.extra.get("infill", {}))
    if task.stop_tokens:
        body["stop"] = task.stop_tokens
    if task.logprobs is not None:
        # Old servers report the chosen token's probability only if it is among the likeliest.
        body["n_probs"] = max(task.logprobs, 1) if caps.queues else max(task.logprobs, 10)
    if caps.modern_sampling:
        body["response_fields"] = TRIMMED
        body |= task.sampling
        report = task.request.report
        if report != NO_REPORT:
            if report.settings:
                body["response_fields"] = SETTINGS
            if report.progress:
                body["return_progress"] = True
            if report.timings:
                body["timings_per_token"] = True
            if report.sampled and task.logprobs is not None:
                body["post_sampling_probs"] = True
        return body
    for name, value in task.sampling.items():
        if name not in LATER:
            body[name] = value
        elif needed(name, value):
            raise Unsupported(
                f"{name} is not supported by this model's backend (server.cpp, {caps.dialect})",
                param=name,
            )
    if body.get("repeat_last_n", 0) > OLD_REPEAT_LAST_N:
        body["repeat_last_n"] = OLD_REPEAT_LAST_N
    if 0 < body.get("temperature", 1) < 0.001:
        body["temperature"] = 0
    return body


# -- servers of 2023, which report neither their slots nor their vocabulary ------------------------

NOTHING = {"prompt": "", "n_predict": 1, "cache_prompt": True}  # evaluates nothing
STEP = 1024
MOST = STEP * STEP  # ids; larger than any vocabulary
MOST_SLOTS = 256


def counted(existing: Callable[[Sequence[int]], set[int]]) -> int:
    """The number of ids, 0 if the answers are not plausible. `existing` returns which ids exist: an
    old server repeats the pairs of `logit_bias` with such ids at the end of an answer."""
    coarse = existing(range(0, MOST, STEP)).intersection(range(0, MOST, STEP))
    if not coarse or MOST - STEP in coarse:
        return 0  # a server that repeats every id reveals nothing
    fine = range(max(coarse), max(coarse) + STEP)
    return max(existing(fine).intersection(fine), default=-1) + 1


def count_slots(ask: Callable[[int], int | None]) -> int:
    """The number of slots. 0 if the server does not answer or names slots beyond MOST_SLOTS.

    The answer to an empty prompt names its slot: the requested one if it exists and is idle,
    otherwise the least recently used idle one. So it proves that all lower numbers exist. The next
    number is requested until it was missed so often that every idle slot has had its turn."""
    count = missed = 0
    while missed <= count:
        slot = ask(count)
        if slot is None or not 0 <= slot < MOST_SLOTS:
            return 0
        if slot >= count:
            count, missed = slot + 1, 0
        else:
            missed += 1
    return count
