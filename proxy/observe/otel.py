"""Traces of requests for OpenTelemetry, sent by its own SDK over OTLP/HTTP.

    SERVER    POST /v1/chat/completions
    ├ INTERNAL  slotproxy.limits      those of the key; slotproxy.load, slotproxy.summary, …
    ├ INTERNAL  slotproxy.queue       if it waited
    ├ CLIENT    chat qwen3            the model's call, with all rounds
    │ ├ INTERNAL  slotproxy.slot      its slot was chosen
    │ ├ INTERNAL  slotproxy.restore   from a file; slotproxy.load, of a server that sleeps
    │ ├ INTERNAL  slotproxy.prefill
    │ └ INTERNAL  slotproxy.decode
    └ INTERNAL  execute_tool time     between two rounds; CLIENT  tools/call time  of an MCP server

A request that begins gets the ids of its trace, which its backend reads in `traceparent`. Its spans
are made when it has ended, from what its record knows. The SDK sends them in its own thread, and
drops what does not fit into its queue, so no answer waits for a collector.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from os import urandom
from random import random
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, field
from msgspec.structs import asdict
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation import get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .. import __version__
from ..core.events import Batch, ReasoningDelta, TextDelta, ToolCallDelta, Withdrawn
from ..core.fold import Fold, Part
from ..core.request import CompletionRequest, Message, ToolCall
from ..core.usage import tokens_per_second
from ..errors import NoIdleSlot
from ..gateway import Answer, Caller, Info
from ..gateway.context import ANYBODY
from ..runtime.cancel import Cancel
from ..web.observability import Record
from . import otel_names as names

MOST_ROUNDS = 64  # answers of a request that are traced
SHORT = 0.001  # seconds of a step that is not shown

QUIET = 60.0  # seconds between two log lines about lost traces
LOST = """otel: traces are lost: %s Check OTEL_EXPORTER_OTLP_ENDPOINT, its protocol\
 (http/protobuf) and OTEL_EXPORTER_OTLP_HEADERS"""

log = logging.getLogger("slotproxy.otel")
_encode = msgspec.json.Encoder().encode
_propagator = TraceContextTextMapPropagator()
Answers = Callable[..., Answer]
Said = TextDelta | ReasoningDelta | ToolCallDelta | Withdrawn


class Lost(logging.Filter):
    """Lets an error of the exporter pass once in a minute, with what to do."""

    logged = -QUIET

    def filter(self, entry: logging.LogRecord) -> bool:
        now = time.monotonic()
        if entry.levelno < logging.ERROR or now - self.logged < QUIET:
            return False
        self.logged = now
        entry.msg, entry.args = LOST, (entry.getMessage()[: names.LONGEST],)
        return True


_lost = Lost()


class Round(Struct, eq=False):
    """An answer of a model: when it began, in seconds since the request arrived, and the tool that
    ran before. What it said is only of contents."""

    offset: float
    info: Info
    tool: dict[str, Any]
    said: Fold = field(default_factory=Fold)
    size: int = 0  # characters that have gone into it


class Trace(Struct, eq=False):
    """The trace of a request under way. The messages, as JSON, are only of contents."""

    span: Span
    began: float  # by the clock of records
    rounds: list[Round] = []
    session: str = ""
    attributes: dict[str, Any] = {}
    messages: str = ""


class Step(NamedTuple):
    """A span of a request, between two times in seconds since it arrived. The model's call has some
    of its steps."""

    name: str
    start: float
    end: float
    attributes: dict[str, Any]
    is_call: bool = False


class Traces:
    """`variables` are those of the process, by the standard's names; `parent` is join or link.
    `server` returns the kind of a backend's server, and its URL."""

    def __init__(
        self, variables: Mapping[str, str], parent: str, server: Callable[[str], tuple[str, str]]
    ) -> None:
        self._links, self._server = parent == "link", server
        self._captures = names.captures(variables)
        schema = names.schema(variables)
        self._latest = schema == names.LATEST
        resource = Resource.create({"service.version": __version__})
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "slotproxy"}))
        # The SDK's way to leave a request out takes as long as a tenth of its answer.
        self._share = names.share(variables)
        sampler = None if self._share is None else ParentBased(ALWAYS_ON)
        provider = TracerProvider(sampler, resource, shutdown_on_exit=False)
        logging.getLogger(OTLPSpanExporter.__module__).addFilter(_lost)
        self._processor = BatchSpanProcessor(OTLPSpanExporter())
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("slotproxy", __version__, schema)
        self._open: dict[Cancel, Trace] = {}
        self.close = self._processor.shutdown

    def begin(self, record: Record, cancel: Cancel) -> None:
        """Begin the trace of a request, and let its backend know of it."""
        share = self._share
        if share is not None and (self._links or not record.trace[0]) and random() >= share:
            ids = urandom(24).hex()
            cancel.headers = f"traceparent: 00-{ids[:32]}-{ids[32:]}-00\r\n"
            return
        context = Context()
        links: list[Link] = []
        attributes: dict[str, str] = {}
        if record.trace[0]:
            sent = dict(zip(("traceparent", "tracestate"), record.trace, strict=True))
            context = _propagator.extract(sent, context)
            caller = get_current_span(context).get_span_context()
            if self._links and caller.is_valid:
                context, links = Context(), [Link(caller)]
                attributes["caller.trace_id"] = f"{caller.trace_id:032x}"
                attributes["caller.span_id"] = f"{caller.span_id:016x}"
        at = _nanoseconds(time.time() - record.elapsed())
        span = self._tracer.start_span(
            "request", context, SpanKind.SERVER, attributes, links, start_time=at
        )
        cancel.headers = _headers(span.get_span_context())
        if span.is_recording():
            self._open[cancel] = Trace(span, record.began)

    def watching(self, answer: Answers) -> Answers:
        """What a gateway answers with, noting what it was asked for."""

        def watched(request: CompletionRequest, cancel: Cancel, caller: Caller = ANYBODY) -> Answer:
            made = answer(request, cancel, caller)
            self._asked(made, cancel)
            return made

        return watched

    def _asked(self, answer: Answer, cancel: Cancel) -> None:
        """Note the request of an answer that begins."""
        if (trace := self._open.get(cancel)) is None or len(trace.rounds) >= MOST_ROUNDS:
            return  # it is not sampled
        request = answer.request
        tool = names.of_tool(request, self._captures)
        offset = time.perf_counter() - trace.began - (answer.context.clock() - answer.began)
        part = Round(max(0.0, offset), answer.info, tool)
        trace.rounds.append(part)
        if self._captures:
            trace.messages = trace.messages or _encode(_messages(request)).decode()
            answer.choices = _heard(answer.choices, part)
        if not trace.attributes:  # the first round
            trace.attributes = names.of_parameters(request, self._latest)
            trace.session = request.session

    def finish(self, record: Record, took: float) -> None:
        """End the trace of a request. Never waits, and never fails."""
        if record.cancel is None or (trace := self._open.pop(record.cancel, None)) is None:
            return
        if record.info.outcome == NoIdleSlot.code:
            return  # a line of a batch, which is asked again
        try:
            self._make(trace, record, took, time.time())
        except Exception:
            log.exception("otel: the trace of a request was not made")

    def _make(self, trace: Trace, record: Record, took: float, ended: float) -> None:
        info, root, began = record.info, trace.span, ended - took
        common = names.everywhere(record, trace.session)
        ends: list[tuple[Span, float]] = [(root, took)]

        def child(step: Step, parent: Span) -> Span:
            start, end = min(step.start, took), min(step.end, took)
            context, at = set_span_in_context(parent, Context()), _nanoseconds(began + start)
            attributes = common | step.attributes
            is_client = not names.CLIENT.isdisjoint(attributes)
            kind = SpanKind.CLIENT if is_client else SpanKind.INTERNAL
            span = self._tracer.start_span(step.name, context, kind, attributes, start_time=at)
            ends.append((span, max(start, end)))
            return span

        root.update_name(f"{record.method[:20]} {record.route or record.path[: names.LONGEST]}")
        root.set_attributes(common | names.of_request(record))
        own = {id(part) for part in info.rounds()}  # without summaries of conversations
        trace.rounds = [part for part in trace.rounds if id(part.info) in own]
        steps = _steps(info, {id(part.info): part for part in trace.rounds})
        last, call = root, root
        for step in steps:
            if not step.is_call:
                last = child(step, root)
        if info.model:
            calls = [step for step in steps if step.is_call]
            attributes = self._of_call(trace, record, took, began)
            if "session.id" in common:
                attributes["gen_ai.conversation.id"] = common["session.id"]
            name = f"{attributes['gen_ai.operation.name']} {attributes['gen_ai.response.model']}"
            start = calls[0].start if calls else max((step.end for step in steps), default=0.0)
            end = calls[-1].end if calls and info.last_token else took
            last = call = child(Step(name, start, end, attributes), root)
            for step in calls:
                last = child(step, call)
        if fault := names.fault(record):
            for span in {root, call, last}:
                span.set_status(Status(StatusCode.ERROR, fault))
        for span, end in reversed(ends):
            span.end(_nanoseconds(began + end))

    def _of_call(self, trace: Trace, record: Record, took: float, began: float) -> dict[str, Any]:
        info = record.info
        first = next((r for r in trace.rounds if r.info.first_token), None)
        heard = first.offset + first.info.first_token if first else 0.0
        attributes = names.of_call(record, took, heard, self._latest) | trace.attributes
        kind, url = self._server(info.backend)
        place = urlsplit(url)
        attributes |= names.given({"gen_ai.provider.name": kind, "server.address": place.hostname})
        if place.hostname and place.port:
            attributes["server.port"] = place.port
        if heard:  # for Langfuse
            at = datetime.fromtimestamp(began + heard, UTC)
            attributes["langfuse.observation.completion_start_time"] = at.isoformat()
        if trace.messages:
            parts = [_part(part) for round in trace.rounds for part in round.said.parts]
            answer: dict[str, Any] = {"role": "assistant", "parts": parts}
            if not self._latest:
                answer["finish_reason"] = attributes["gen_ai.response.finish_reasons"][0]
            attributes["gen_ai.input.messages"] = trace.messages
            attributes["gen_ai.output.messages"] = _encode([answer]).decode()
        return attributes


def _steps(info: Info, rounds: Mapping[int, Round]) -> list[Step]:
    steps: list[Step] = []
    parts, now = info.parts(), 0.0
    for place, part in enumerate(parts):
        if isinstance(part, Info):
            now = rounds[id(part)].offset if id(part) in rounds else now
            steps += _of_round(part, now)
            now = steps[-1].end if steps else now
            continue
        name, seconds = part
        title, attributes = f"slotproxy.{name}", {}
        if name == "tools":  # the next round has what was called
            after = rounds.get(id(parts[place + 1])) if place + 1 < len(parts) else None
            tool = after.tool if after is not None else names.of_tool()
            method = tool.get(names.MCP_METHOD, "")
            if steps or method:  # otherwise, the tools were listed
                attributes = tool
                title = f"{method or 'execute_tool'} {tool.get('gen_ai.tool.name', '')}".rstrip()
        if seconds >= SHORT or attributes:
            steps.append(Step(title, now, now + seconds, attributes))
        now += seconds
    return steps


def _of_round(info: Info, began: float) -> Iterator[Step]:
    now, restoring = began, 0.0
    for name, seconds in (step for step in info.steps if isinstance(step, tuple)):
        if name == "restore":
            restoring += seconds
            continue
        if seconds >= SHORT or name == "limits":
            yield Step(f"slotproxy.{name}", now, now + seconds, {})
        now += seconds
    if info.queue_wait:
        waited = {"slotproxy.seconds": info.queue_wait, "slotproxy.place": info.first_place}
        yield Step("slotproxy.queue", now, now + info.queue_wait, waited)
        now += info.queue_wait
    if not info.placed:
        return
    usage, placed = info.usage, began + info.placed
    first, last = began + info.first_token, began + info.last_token
    yield Step("slotproxy.slot", now, placed - restoring, names.of_slot(info), is_call=True)
    if restoring:
        yield Step("slotproxy.restore", placed - restoring, placed, {}, is_call=True)
    if not info.first_token:
        return
    if info.placement is not None and info.placement.loads:
        loaded = max(placed, first - info.evaluating)
        yield Step("slotproxy.load", placed, loaded, {}, is_call=True)
        placed = loaded
    counts = {"slotproxy.evaluated": usage.prompt - usage.cached, "slotproxy.cached": usage.cached}
    yield Step("slotproxy.prefill", placed, first, counts, is_call=True)
    speed = tokens_per_second(usage.completion, last - first)
    written = {"slotproxy.tokens": usage.completion, "slotproxy.speed": speed}
    yield Step("slotproxy.decode", first, last, written, is_call=True)


def _messages(request: CompletionRequest) -> list[dict[str, Any]]:
    """The newest messages up to a bound, in the form of the convention; media without data."""
    texts = (prompt for prompt in request.prompts if isinstance(prompt, str))
    turns = request.messages or tuple(Message(role="user", content=text) for text in texts)
    messages: list[dict[str, Any]] = []
    room = names.MOST_CONTENT
    for turn in reversed(turns):
        room -= turn.characters
        if room < 0:
            break
        parts: list[dict[str, Any]] = []
        if turn.content:
            parts.append({"type": "text", "content": turn.content})
        if turn.role == "tool":
            result = {"id": turn.tool_call_id, "response": turn.content}
            parts = [{"type": "tool_call_response", **result}]
        parts += [{"type": "blob", "modality": media.kind, "content": ""} for media in turn.media]
        parts += map(_part, turn.tool_calls)
        messages.insert(0, {"role": turn.role, "parts": parts})
    return messages


def _heard(choices: Iterator[tuple[int, Batch]], part: Round) -> Iterator[tuple[int, Batch]]:
    """The same events; what the first choice says is kept, up to a bound."""
    for number, batch in choices:
        if not number and part.size < names.MOST_CONTENT:
            texts: Batch = [event for event in batch if isinstance(event, Said)]
            part.said.add(texts)
            part.size += sum(len(getattr(event, "text", "")) for event in texts)
            part.size += sum(len(getattr(event, "arguments", "")) for event in texts)
        yield number, batch


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, ToolCall):
        return {"type": "tool_call", **asdict(part)}
    assert isinstance(part, TextDelta | ReasoningDelta), "steps are not kept"
    kind = "text" if isinstance(part, TextDelta) else "reasoning"
    return {"type": kind, "content": part.text}


def _headers(span: SpanContext) -> str:
    """The header lines that a backend gets. Baggage is never passed on."""
    sampled, state = int(span.trace_flags) & 1, span.trace_state.to_header()
    lines = f"traceparent: 00-{span.trace_id:032x}-{span.span_id:016x}-{sampled:02x}\r\n"
    safe = state.isascii() and state.isprintable() and state
    return f"{lines}tracestate: {state}\r\n" if safe else lines


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
