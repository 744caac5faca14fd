"""Traces of requests for OpenTelemetry, sent by its own SDK over OTLP/HTTP.

    SERVER    POST /v1/chat/completions
    ├ INTERNAL  slotproxy.queue       if it waited
    └ CLIENT    chat qwen3            the model's call, the only span that names a model
      ├ INTERNAL  slotproxy.slot      its slot was chosen, restored, and its server loaded
      ├ INTERNAL  slotproxy.prefill
      └ INTERNAL  slotproxy.decode

A request that begins gets the ids of its trace, which its backend reads in `traceparent`. Its spans
are made when it has ended, from what its record knows, in a native thread that also sends them.
So no answer waits for it: what the thread cannot keep up with is lost, and counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from requests import Session

from .. import __version__
from ..core.events import Batch, FinishReason, TextDelta
from ..core.request import CompletionRequest, Message
from ..errors import NoIdleSlot
from ..gateway import Answer, Caller, Gateway
from ..gateway.context import ANYBODY
from ..runtime.blocking import NativeThreads, run_in_native_thread
from ..runtime.cancel import Cancel
from ..runtime.keep_alive import KeepAlive, no_pause
from ..web.observability import Observer, Record
from . import otel_names as names

Parent = Literal["join", "link"]
MOST_WAITING = 2048  # finished requests that wait to be sent
MOST_OPEN = 16384  # requests under way that are traced
AT_ONCE = 64  # requests sent together
LONGEST = 256  # characters of a text that is no content
MOST_CONTENT = 131_072  # characters of the messages of one side
PERIOD = 5.0  # seconds between two looks, unless OTEL_BSP_SCHEDULE_DELAY says it
QUIET = 60.0  # seconds between two log lines about lost traces

log = logging.getLogger("slotproxy.otel")
_encode = msgspec.json.Encoder().encode
_propagator = TraceContextTextMapPropagator()


class Trace(Struct, eq=False):
    """The trace of a request under way. `offset` is when its answer began, in seconds since the
    request arrived; `texts` are those of the answer, if contents are traced."""

    span: Span
    began: float  # by the clock of records
    request: CompletionRequest | None = None
    offset: float = 0.0
    texts: list[str] | None = None
    size: int = 0  # characters of these


class _Ended(SpanProcessor):
    """Collects the spans that ended, for the thread that makes them."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


class Traces:
    """`variables` are those of the process, by the standard's names. `provider` names the kind of
    server of a backend, and `address` its URL."""

    def __init__(
        self,
        variables: Mapping[str, str],
        *,
        parent: Parent = "join",
        provider: Callable[[str], str] = lambda backend: "llama_cpp",
        address: Callable[[str], str] = str,
        exporter: SpanExporter | None = None,
    ) -> None:
        self._names = names.names(variables)
        self._links = parent == "link"
        self._provider, self._address = provider, address
        self.captures = variables.get(names.CAPTURE, "").lower() in names.CAPTURES
        delay = variables.get("OTEL_BSP_SCHEDULE_DELAY", "")
        self._period = int(delay) / 1000 if delay.isdecimal() else PERIOD
        self._ended = _Ended()
        self._sdk = TracerProvider(resource=_resource(variables), shutdown_on_exit=False)
        self._sdk.add_span_processor(self._ended)
        self._tracer = self._sdk.get_tracer("slotproxy", __version__, self._names.schema)
        self._exporter = exporter or _exporter()
        self._open: dict[Cancel, Trace] = {}
        self._waiting: deque[tuple[Trace, Record, float, float]] = deque()
        self._threads = NativeThreads(1)
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.sent = self.lost = 0  # requests
        self._reported, self._logged = 0, -QUIET

    # in the path of a request

    def observer(self, **options: Any) -> Observer:
        """An observer that traces the requests that ask a model."""
        return TracedObserver(self, **options)

    def gateway(self, *arguments: Any, **options: Any) -> Gateway:
        """A gateway that notes what answers were asked for."""
        gateway = TracedGateway(*arguments, **options)
        gateway.traces = self
        return gateway

    def begin(self, record: Record, cancel: Cancel) -> None:
        """Begin the trace of a request, and let its backend know of it."""
        context = Context()
        links: tuple[Link, ...] = ()
        attributes: dict[str, Any] = {}
        if record.trace[0]:
            carrier = dict(zip(("traceparent", "tracestate"), record.trace, strict=True))
            context = _propagator.extract(carrier, Context())
            caller = get_current_span(context).get_span_context()
            if self._links and caller.is_valid:
                context, links = Context(), (Link(caller),)
                attributes = {
                    names.CALLER_TRACE: f"{caller.trace_id:032x}",
                    names.CALLER_SPAN: f"{caller.span_id:016x}",
                }
        span = self._tracer.start_span(
            "request", context, SpanKind.SERVER, attributes, links, start_time=_arrival(record)
        )
        cancel.headers = _headers(span.get_span_context())
        if span.is_recording() and len(self._open) < MOST_OPEN:
            self._open[cancel] = Trace(span, record.began)

    def asked(self, answer: Answer, cancel: Cancel) -> None:
        """Note the request of an answer that begins."""
        trace = self._open.get(cancel)
        if trace is None or trace.request is not None:
            return  # it is not sampled, or a later step of a dialogue
        trace.request = answer.request
        trace.offset = time.perf_counter() - trace.began
        if self.captures:
            trace.texts = []
            answer.choices = _heard(answer.choices, trace)

    def finish(self, record: Record, took: float) -> None:
        """Queue the trace of a request that has ended. Never waits."""
        if record.cancel is None or (trace := self._open.pop(record.cancel, None)) is None:
            return
        if record.info.outcome == NoIdleSlot.code:
            return  # a line of a batch, which is asked again
        if len(self._waiting) >= MOST_WAITING:
            self.lost += 1
        else:
            self._waiting.append((trace, record, took, time.time()))

    # in the thread

    def start(self) -> None:
        """Begin to send. Call it in the process that serves, after it was forked."""
        self._thread = threading.Thread(target=self._run, name="otel", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send what is in the queue, and end."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(PERIOD)
        self._turn()
        self._exporter.shutdown()

    def _run(self) -> None:
        working = KeepAlive("sending traces", no_pause)
        while not self._closing.wait(self._period):
            working.turn(self._turn)

    def _turn(self) -> None:
        while self._waiting:
            count = min(len(self._waiting), AT_ONCE)
            batch = [self._waiting.popleft() for _ in range(count)]
            if run_in_native_thread(partial(self._send, batch), self._threads):
                self.sent += count
            else:
                self.lost += count
                break  # the collector is away: the rest waits for the next turn
        new, now = self.lost - self._reported, time.monotonic()
        if new and now - self._logged >= QUIET:
            self._logged, self._reported = now, self.lost
            log.warning(
                "otel: the traces of %d requests are lost: the collector of %s does not take them"
                " in time; check its address, its protocol (http/protobuf) and"
                " OTEL_EXPORTER_OTLP_HEADERS",
                new,
                names.ENDPOINTS[1],
            )

    def _send(self, batch: list[tuple[Trace, Record, float, float]]) -> bool:
        for trace, record, took, ended in batch:
            self._make(trace, record, took, ended)
        spans, self._ended.spans = self._ended.spans, []
        return self._exporter.export(spans) is SpanExportResult.SUCCESS

    def _make(self, trace: Trace, record: Record, took: float, ended: float) -> None:
        """Make and end the spans of a request."""
        info, request, root = record.info, trace.request, trace.span
        began = ended - took
        session = request.session if request is not None else ""
        digest = sha256(f"{record.key}\0{session}".encode()).hexdigest()[:32] if session else ""
        common = _given({names.USER: record.key[:LONGEST], names.SESSION: digest})

        def child(
            name: str, parent: Span, start: float, end: float, kind: SpanKind, **more: Any
        ) -> Span:
            """A span from one time to another, in seconds since the request arrived."""
            span = self._tracer.start_span(
                name,
                set_span_in_context(parent, Context()),
                kind,
                {**common, **more.pop("attributes", {})},
                start_time=_nanoseconds(began + max(0.0, start)),
            )
            ends.append((span, _nanoseconds(began + max(start, min(end, took)))))
            return span

        ends: list[tuple[Span, int]] = []
        root.update_name(f"{record.method[:20]} {record.route or record.path[:LONGEST]}")
        root.set_attributes(
            common
            | _given(
                {
                    names.METHOD: record.method[:20],
                    names.ROUTE: record.route,
                    names.STATUS: record.status,
                    names.SCHEME: "http",
                    names.AGENT: record.agent[:LONGEST],
                }
            )
        )
        fault = "" if record.status < 400 and info.outcome in _WELL else info.outcome
        fault = fault or (str(record.status) if record.status >= 400 else "")
        if fault:
            root.set_attribute(names.ERROR, fault)
            root.set_status(Status(StatusCode.ERROR, fault))
        start = trace.offset
        if info.queue_wait:
            waited = {names.SECONDS: info.queue_wait, names.PLACE: info.first_place}
            end = start + info.queue_wait
            child("slotproxy.queue", root, start, end, SpanKind.INTERNAL, attributes=waited)
            start = end
        if info.model or request is not None:
            attributes = self._call(trace, record, took, began, fault)
            attributes |= _given({names.CONVERSATION: digest})
            operation = attributes[names.OPERATION]
            last = trace.offset + info.last_token if info.last_token else took
            call = child(
                f"{operation} {info.model[:LONGEST]}",
                root,
                start,
                last,
                SpanKind.CLIENT,
                attributes=attributes,
            )
            if fault:
                call.set_status(Status(StatusCode.ERROR, fault))
            for name, since, until, known in self._parts(trace, record, start):
                child(name, call, since, until, SpanKind.INTERNAL, attributes=known)
        for span, at in reversed(ends):
            span.end(at)
        root.end(_nanoseconds(ended))

    def _parts(
        self, trace: Trace, record: Record, start: float
    ) -> Iterator[tuple[str, float, float, dict[str, Any]]]:
        """The parts of the model's call: name, begin, end and attributes."""
        info, usage = record.info, record.info.usage
        if not info.placed:
            return
        placed, first = trace.offset + info.placed, trace.offset + info.first_token
        slot = {
            names.BACKEND: info.backend[:LONGEST],
            names.TIER: info.tier,
            names.PASSED: [f"{name} {why}"[:LONGEST] for name, why in info.passed],
            names.CONTINUED: info.continued,
            names.COMPACTED: info.compacted,
        }
        yield "slotproxy.slot", start, placed, _given(slot) | {names.SLOT: info.slot}
        if not info.first_token:
            return
        tokens = {names.CACHED: usage.cached, names.EVALUATED: usage.prompt - usage.cached}
        yield "slotproxy.prefill", placed, first, tokens
        seconds = info.last_token - info.first_token
        speed = (usage.completion - 1) / seconds if seconds > 0 and usage.completion > 1 else 0.0
        written = {names.TOKENS: usage.completion, names.SPEED: speed}
        yield "slotproxy.decode", first, trace.offset + info.last_token, written

    def _call(
        self, trace: Trace, record: Record, took: float, began: float, fault: str
    ) -> dict[str, Any]:
        """The attributes of the model's call; the request arrived at `began`, in seconds since
        1970."""
        info, usage, request = record.info, record.info.usage, trace.request
        place = urlsplit(self._address(info.backend)) if info.backend else urlsplit("")
        first = trace.offset + info.first_token if info.first_token else 0.0
        prefill = info.evaluating or max(0.0, info.first_token - info.placed)
        decode = info.writing or max(0.0, info.last_token - info.first_token)
        known: dict[str, Any] = {
            names.OPERATION: _operation(request, record.route),
            names.PROVIDER: self._provider(info.backend),
            names.REQUEST_MODEL: ((request and request.model) or info.model)[:LONGEST],
            names.RESPONSE_MODEL: info.model[:LONGEST],
            names.FINISH_REASONS: [info.outcome if info.outcome in _REASONS else "error"],
            names.INPUT_TOKENS: usage.prompt,
            names.OUTPUT_TOKENS: usage.completion,
            names.REQUEST_ID: record.id,
            names.E2E: took,
            names.IN_QUEUE: info.queue_wait,
            names.IN_SCHEDULER: max(0.0, info.placed - info.queue_wait),
            names.IN_PREFILL: prefill,
            names.IN_DECODE: decode,
            names.IN_INFERENCE: prefill + decode,
            names.TO_FIRST_TOKEN: first,
        }
        more: dict[str, Any] = {
            names.CACHED_TOKENS: usage.cached,
            names.REASONING_TOKENS: usage.reasoning,
            names.SERVER_ADDRESS: place.hostname or "",
            names.ERROR: fault,
            names.SERVER_PORT: place.port if place.hostname else 0,
            names.FIRST_CHUNK: first,
            self._names.compacted: info.compacted > 0,
            self._names.stream: record.stream,
        }
        if first:
            at = datetime.fromtimestamp(began + first, UTC)
            more[names.COMPLETION_START] = at.isoformat()
        if request is not None:
            kind = "text" if request.output.kind == "text" else "json"
            more |= {
                names.OUTPUT_TYPE: kind,
                names.REQUEST_N: request.choices,
                names.CHOICES: request.choices if request.choices > 1 else 0,
                names.MAX_TOKENS: request.max_tokens or 0,
                names.STOP: [text[:LONGEST] for text in request.stop[:16]],
                self._names.reasoning_level: request.reasoning_effort[:LONGEST],
            }
            sampling = request.sampling.items()
            known |= {
                names.SAMPLING[k]: v for k, v in sampling if k in names.SAMPLING and _plain(v)
            }
            if trace.texts is not None:
                known |= self._contents(trace, request, info.outcome)
        return known | _given(more)

    def _contents(self, trace: Trace, request: CompletionRequest, outcome: str) -> dict[str, Any]:
        """The messages of both sides as JSON, the newest up to a bound."""
        messages: list[dict[str, Any]] = []
        room = MOST_CONTENT
        turns = request.messages or tuple(
            Message(role="user", content=prompt)
            for prompt in request.prompts
            if isinstance(prompt, str)
        )
        for message in reversed(turns):
            room -= message.characters
            if room < 0:
                break
            messages.insert(0, {"role": message.role, "parts": list(_parts_of(message))})
        answer: dict[str, Any] = {
            "role": "assistant",
            "parts": [{"type": "text", "content": "".join(trace.texts or ())}],
        }
        if self._names.message_ends:
            answer["finish_reason"] = outcome if outcome in _REASONS else "error"
        return {names.INPUT: _encode(messages).decode(), names.OUTPUT: _encode([answer]).decode()}


_REASONS = frozenset(get_args(FinishReason))
_WELL = _REASONS | {""}


def _given(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Those with a name and a value."""
    return {name: value for name, value in attributes.items() if name and value}


def _plain(value: object) -> bool:
    return type(value) in (int, float)


def _operation(request: CompletionRequest | None, route: str) -> str:
    if request is not None:
        return "chat" if request.is_chat else "text_completion"
    return (
        "embeddings"
        if "embed" in route
        else "retrieval"
        if "rerank" in route
        else "generate_content"
    )


def _parts_of(message: Message) -> Iterator[dict[str, Any]]:
    """A message's parts in the form of the convention; media without their data."""
    if message.reasoning:
        yield {"type": "reasoning", "content": message.reasoning}
    if message.role == "tool":
        yield {
            "type": "tool_call_response",
            "id": message.tool_call_id,
            "response": message.content,
        }
    elif message.content:
        yield {"type": "text", "content": message.content}
    for media in message.media:
        yield {"type": "blob", "modality": media.kind, "content": ""}
    for call in message.tool_calls:
        yield {"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments}


def _heard(choices: Iterator[tuple[int, Batch]], trace: Trace) -> Iterator[tuple[int, Batch]]:
    """The same events; the texts of the first choice are kept, up to a bound."""
    texts = trace.texts
    assert texts is not None
    for number, batch in choices:
        for event in batch if not number else ():
            if type(event) is TextDelta and trace.size < MOST_CONTENT:
                texts.append(event.text)
                trace.size += len(event.text)
        yield number, batch


def _headers(span: SpanContext) -> str:
    """The header lines that a backend gets. Baggage is never passed on."""
    flags = int(span.trace_flags) & TraceFlags.SAMPLED
    lines = f"traceparent: 00-{span.trace_id:032x}-{span.span_id:016x}-{flags:02x}\r\n"
    state = span.trace_state.to_header()
    return (
        f"{lines}tracestate: {state}\r\n"
        if state.isascii() and state.isprintable() and state
        else lines
    )


def _arrival(record: Record) -> int:
    return _nanoseconds(time.time() - record.elapsed())


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _resource(variables: Mapping[str, str]) -> Resource:
    named = variables.get("OTEL_SERVICE_NAME") or "service.name=" in variables.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    attributes = {"service.version": __version__}
    return Resource.create(attributes if named else attributes | {"service.name": "slotproxy"})


def _exporter() -> OTLPSpanExporter:
    """The SDK's, as its variables say. A connection ends with its request: the next one may be of
    another thread."""
    session = Session()
    session.headers["Connection"] = "close"
    # What it logs would wait for a lock that belongs to another thread; see `_turn`.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
    return OTLPSpanExporter(session=session)


class TracedObserver(Observer):
    """Traces the requests that ask a model."""

    def __init__(self, traces: Traces, **options: Any) -> None:
        super().__init__(**options)
        self._traces = traces

    def begin(self, record: Record, cancel: Cancel) -> None:
        self._traces.begin(record, cancel)
        super().begin(record, cancel)

    def _count(self, record: Record, took: float) -> None:
        self._traces.finish(record, took)
        super()._count(record, took)


class TracedGateway(Gateway):
    """Notes what answers were asked for."""

    traces: Traces

    def answer(
        self, request: CompletionRequest, cancel: Cancel, caller: Caller = ANYBODY
    ) -> Answer:
        answer = super().answer(request, cancel, caller)
        self.traces.asked(answer, cancel)
        return answer
