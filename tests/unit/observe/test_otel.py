"""Traces as a collector receives them, read with the protobuf package of the standard."""

from __future__ import annotations

import importlib
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from proxy.backends.driver import Capabilities
from proxy.backends.http import ConnectionPool
from proxy.config import ApiKey, Secret
from proxy.config.settings import AgentConfig, OtelConfig
from proxy.core.events import Finished, Started, ToolCallDelta
from proxy.core.request import CompletionRequest, Message, Tool, ToolCall
from proxy.core.task import Task
from proxy.core.usage import Usage
from proxy.dialogue.loop import AgentRunner, ToolAnswer
from proxy.errors import BackendDown
from proxy.gateway import Info
from proxy.gateway.context import ANYBODY
from proxy.observe import otel_names
from proxy.runtime.cancel import Cancel
from proxy.web.observability import Record
from tests.collector import CLIENT, INTERNAL, SERVER, Collector, of
from tests.extras import need
from tests.fakes import (
    CAPS,
    ScriptedDriver,
    ScriptedRun,
    ScriptsInTurn,
    make_own_app,
    say,
    services_of,
    wait_until,
)
from tests.fuzz.seeds import bodies
from tests.unit.dialogue.test_loop import Echo
from tests.unit.web.ledger.test_routes_write_rows import BODIES, KNOWN, Everything
from tests.unit.web.ledger.test_routes_write_rows import _posts as posts
from tests.unit.web.test_pages_chat import KEYED

need("otel", "opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter")
otel: Any = importlib.import_module("proxy.observe.otel")

USER = [{"role": "user", "content": "How are you?"}]
KEY = {"Authorization": "Bearer sk-ann-0123456789"}
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SEVEN = {
    f"gen_ai.latency.{name}"
    for name in (
        "time_in_queue",
        "time_to_first_token",
        "e2e",
        "time_in_scheduler",
        "time_in_model_prefill",
        "time_in_model_decode",
        "time_in_model_inference",
    )
}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    collector = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    yield collector
    collector.close()


class Noting(ScriptedDriver):
    """Notes the header lines that a server would get."""

    def __init__(self, *script: Any) -> None:
        super().__init__(script or say("I am", " well"))
        self.lines: list[str] = []

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> ScriptedRun:
        self.lines.append(cancel.headers)
        return super().stream(task, slot, caps, cancel)


@pytest.fixture
def app(collector: Collector) -> Iterator[Callable[..., Any]]:
    """Makes an app with traces, and closes it."""
    made: list[Any] = []

    def make(driver: ScriptedDriver | None = None, **settings: Any) -> Any:
        settings.setdefault("file_keys", (ApiKey("ann", Secret("sk-ann-0123456789")),))
        made.append(make_own_app(driver or Noting(), **settings))
        return made[-1].test_client()

    yield make
    for one in made:
        services_of(one).life.close()


def chat(client: Any, headers: dict[str, str] = KEY, **body: Any) -> Any:
    return client.post("/v1/chat/completions", json={"messages": USER, **body}, headers=headers)


def tree(spans: list[Any]) -> dict[str, str]:
    """The names of spans, with those of their parents."""
    names = {span.span_id: span.name for span in spans}
    return {span.name: names.get(span.parent_span_id, "") for span in spans}


def traces_of(client: Any) -> Any:
    begin: Any = services_of(client.application).observer.on_begin[0]
    return begin.__self__


APIS: dict[str, tuple[dict[str, Any], str]] = {
    "/v1/chat/completions": ({"messages": USER, "prompt_cache_key": "s1"}, "chat"),
    "/v1/completions": ({"prompt": "Once", "prompt_cache_key": "s1"}, "text_completion"),
    "/v1/responses": ({"input": "Hello", "store": False, "prompt_cache_key": "s1"}, "chat"),
    "/v1/messages": ({"messages": USER, "max_tokens": 9}, "chat"),
    "/api/chat": ({"messages": USER, "stream": False}, "chat"),
    "/api/generate": ({"prompt": "Once", "stream": True}, "chat"),
    "/completion": ({"prompt": "Once"}, "text_completion"),
}


@pytest.mark.parametrize("path", APIS)
def test_each_api_has_the_same_tree(path: str, app: Any, collector: Collector) -> None:
    body, operation = APIS[path]
    headers = KEY | {"X-Session-Id": "s1"}
    client = app()
    answer = client.post(path, json={"model": "scripted", **body}, headers=headers)
    assert answer.status_code == 200, answer.get_data(as_text=True)
    answer.get_data()
    answer.close()
    spans = collector.wait()
    root, call = f"POST {path}", f"{operation} scripted"
    assert tree(spans) == {
        root: "",
        call: root,
        "slotproxy.slot": call,
        "slotproxy.prefill": call,
        "slotproxy.decode": call,
    }
    assert len({span.trace_id for span in spans}) == 1
    kinds = {span.name: span.kind for span in spans}
    assert (kinds.pop(root), kinds.pop(call)) == (SERVER, CLIENT)
    assert {*kinds.values()} == {INTERNAL}
    for span in spans:
        outer = next((s for s in spans if s.span_id == span.parent_span_id), span)
        assert outer.start_time_unix_nano <= span.start_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano <= outer.end_time_unix_nano
    known = {span.name: of(span) for span in spans}
    assert known[root]["http.route"] == path
    assert known[root]["http.response.status_code"] == 200
    assert known[call]["gen_ai.operation.name"] == operation
    assert known[call]["gen_ai.provider.name"] == "openai_compatible"
    assert known[call]["gen_ai.usage.input_tokens"] == 7
    assert known[call]["gen_ai.usage.output_tokens"] == 3
    assert known[call]["gen_ai.usage.cache_read.input_tokens"] == 2
    assert known[call]["gen_ai.response.finish_reasons"] == ["stop"]
    assert known[call].keys() >= SEVEN
    assert "error.type" not in known[call]
    assert known["slotproxy.slot"]["slotproxy.slot"] == 0
    assert known["slotproxy.prefill"] == known["slotproxy.prefill"] | {
        "slotproxy.cached": 2,
        "slotproxy.evaluated": 5,
    }
    assert collector.paths == {"/v1/traces"}
    assert collector.resource["service.name"] == "slotproxy"


def test_each_request_that_asks_a_model_has_one_trace(
    app: Any, collector: Collector, tmp_path: Path
) -> None:
    """Every API: chats and completions with the tree, embeddings and rankings with a call."""
    driver = Everything()
    client = app(driver, data=str(tmp_path), chatchat=True, file_keys=())
    others = {"embeddings": "embeddings", "embed": "embeddings", "rank": "retrieval"}
    seen = set()
    for endpoint, path in posts(client.application):
        for body in (BODIES.get(endpoint) or bodies(endpoint))[:8]:
            if "background" in body or endpoint in seen:
                continue
            asked = driver.asked
            answer = client.post(path, json=body, headers=KEYED)
            answer.get_data()
            answer.close()
            if driver.asked == asked:
                continue
            seen.add(endpoint)
            name = answer.headers["x-request-id"]
            wait_until(partial(collector.trace_of, name))
            spans = collector.trace_of(name)
            calls = [of(span) for span in spans if "gen_ai.request.model" in of(span)]
            assert len(calls) == 1 and calls[0]["gen_ai.request.model"], path
            operation = next((name for part, name in others.items() if part in path), "")
            known = tree(spans)
            call = next(span.name for span in spans if span.kind == CLIENT)
            assert known[call] == f"POST {path}"
            if operation:
                assert calls[0]["gen_ai.operation.name"] == operation
                assert len(spans) == 2
            else:
                assert calls[0]["gen_ai.operation.name"] in ("chat", "text_completion"), path
                steps = {name for name, parent in known.items() if parent == call}
                assert steps == {"slotproxy.slot", "slotproxy.prefill", "slotproxy.decode"}, path
    assert seen >= KNOWN


def test_a_line_of_a_batch_that_is_asked_again_has_no_trace(app: Any, collector: Collector) -> None:
    client = app()
    observer = services_of(client.application).observer
    record = Record({"PATH_INFO": "/v1/responses", "REQUEST_METHOD": "POST"})
    observer.begin(record, Cancel())
    record.status, record.info.outcome = 429, "no_idle_slot"
    observer.finish(record)
    chat(client)
    roots = [span.name for span in collector.wait() if span.kind == SERVER]
    assert roots == ["POST /v1/chat/completions"]
    assert traces_of(client)._open == {}


def test_a_conversation_whose_slot_was_lost(app: Any, collector: Collector) -> None:
    """Its span names the key that took the slot, and what the request found there."""
    keys = [ApiKey(name, Secret(f"sk-{name}-0123456789")) for name in ("ann", "bob")]
    caps = msgspec.structs.replace(CAPS, slots=1)
    client = app(ScriptedDriver(say("I am", " well"), caps), file_keys=tuple(keys))
    bob = {"Authorization": "Bearer sk-bob-0123456789"}
    chat(client)
    other = [{"role": "user", "content": "Something else, and longer than that."}]
    chat(client, bob, messages=other)
    more = [*USER, {"role": "assistant", "content": "I am well"}, *USER]
    chat(client, messages=more)
    collector.wait(3)
    slots = [of(s) for s in collector.wait(3) if s.name == "slotproxy.slot"]
    assert all(slot["slotproxy.slot"] == 0 for slot in slots)
    assert "slotproxy.lost" not in slots[0] and "slotproxy.lost" not in slots[1]
    assert slots[1]["slotproxy.replaced"] > 0
    assert (slots[2]["slotproxy.lost"], slots[2]["slotproxy.lost_to"]) == ("evicted", "bob")
    assert slots[2]["slotproxy.turns_before"] == 1
    assert "slotproxy.cached_expected" not in slots[2]


def test_limits_are_a_span_of_requests_that_have_them(app: Any, collector: Collector) -> None:
    key = ApiKey("ann", Secret("sk-ann-0123456789"), options={"rpm_limit": "1"})
    client = app(file_keys=(key,))
    assert [chat(client).status_code for _ in range(2)] == [200, 429]
    spans = collector.wait(2)
    traces: dict[bytes, list[Any]] = {span.trace_id: [] for span in spans}
    for span in spans:
        traces[span.trace_id].append(span)
    admitted, refused = sorted(traces.values(), key=len, reverse=True)
    root = "POST /v1/chat/completions"
    assert tree(admitted)["slotproxy.limits"] == root
    assert tree(refused) == {root: "", "slotproxy.limits": root, "chat scripted": root}
    assert {span.status.code for span in refused} == {0, 2}
    for span in refused:
        if span.kind in (SERVER, CLIENT):
            assert of(span)["error.type"] == "rate_limit_exceeded"


@pytest.mark.parametrize("contents", ["true", ""])
def test_tools_run_between_the_rounds(
    contents: str, app: Any, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(otel_names.CAPTURE, contents)
    call = ToolCallDelta(0, "c1", "echo", '{"text": "a"}')
    usage = Usage(7, 3, 2)
    calls: list[Any] = [
        [Started(slot=0)],
        [call],
        [Finished(reason="tool_calls", usage=usage, slot=0)],
    ]
    services = services_of(app(ScriptsInTurn(calls, say("It is", " a."))).application)
    record, cancel = Record({"PATH_INFO": "/v1/responses", "REQUEST_METHOD": "POST"}), Cancel()
    services.observer.begin(record, cancel)
    request = CompletionRequest(
        model="scripted", messages=(Message(role="user", content="Echo a, please."),)
    )
    runner = AgentRunner(cancel, 0, {"echo": Echo().runnable})
    answer = ToolAnswer(services.gateway, [runner], request, cancel, ANYBODY, AgentConfig())
    record.info = answer.info
    assert [*answer]
    record.status = 200
    services.observer.finish(record)
    spans = collector.wait()
    known = tree(spans)
    root = "POST /v1/responses"
    assert (known["chat scripted"], known["execute_tool echo"]) == (root, root)
    slots = [span for span in spans if span.name == "slotproxy.slot"]
    (ran,) = (span for span in spans if span.name == "execute_tool echo")
    first, then = (span.start_time_unix_nano for span in slots)
    assert first < ran.start_time_unix_nano <= ran.end_time_unix_nano <= then
    tool = of(ran)
    assert langfuse_type(tool) == "TOOL" and "gen_ai.request.model" not in tool
    assert (tool["gen_ai.tool.name"], tool["gen_ai.tool.call.id"]) == ("echo", "c1")
    if not contents:
        assert not {"gen_ai.tool.call.arguments", "gen_ai.tool.call.result"} & tool.keys()
        return
    assert tool["gen_ai.tool.call.arguments"] == '{"text": "a"}'
    assert tool["gen_ai.tool.call.result"] == "echo a"
    (said,) = (of(span) for span in spans if span.kind == CLIENT)
    assert said["gen_ai.usage.output_tokens"] == 6
    (message,) = json.loads(said["gen_ai.output.messages"])
    assert message["parts"] == [
        {"type": "tool_call", "id": "c1", "name": "echo", "arguments": '{"text": "a"}'},
        {"type": "text", "content": "It is a."},
    ]


@pytest.mark.parametrize("approved", [False, True])
def test_a_tool_of_an_mcp_server_is_a_call_of_a_client(approved: bool) -> None:
    """Also one that its client has approved: it is called before the first round."""
    call = ToolCall("c1", "far__time", "{}")
    turn = Message(role="assistant", tool_calls=(call,)), Message(role="tool", content="noon")
    offered = (Tool("near"), Tool("far__time", server="far"))
    request = CompletionRequest(model="m", messages=turn, tools=offered)
    first, then = Info(placed=1.0), Info(placed=1.0)
    again = () if approved else (("tools", 1.5), then)
    info = Info(steps=(("tools", 0.5), first, *again))
    rounds = {id(part): otel.Round(0.5, part, {}) for part in (first, then)}
    rounds[id(first if approved else then)].tool = otel_names.of_tool(request)
    steps = [step for step in otel._steps(info, rounds) if step.name != "slotproxy.slot"]
    listed = [] if approved else ["slotproxy.tools"]
    assert [step.name for step in steps] == [*listed, "tools/call time"]
    (attributes,) = (s.attributes for s in steps if not otel_names.CLIENT.isdisjoint(s.attributes))
    assert attributes == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.type": "function",
        "mcp.method.name": "tools/call",
        "gen_ai.tool.name": "time",
        "gen_ai.tool.call.id": "c1",
    }


def test_steps_before_and_in_the_slot() -> None:
    """Loads, a summary, limits and the queue come first; a restored file is in the call."""
    before = ("load", 2.0), ("summary", 0.0), ("limits", 0.0), ("restore", 0.5)
    info = Info(steps=before, queue_wait=1.0, placed=4.0, first_token=5.0, last_token=9.0)
    steps = [(s.name[10:], s.start, s.end, s.is_call) for s in otel._steps(info, {})]
    assert steps == [
        ("load", 0.0, 2.0, False),
        ("limits", 2.0, 2.0, False),
        ("queue", 2.0, 3.0, False),
        ("slot", 3.0, 3.5, True),
        ("restore", 3.5, 4.0, True),
        ("prefill", 4.0, 5.0, True),
        ("decode", 5.0, 9.0, True),
    ]
    loads: Any = SimpleNamespace(loads=1.0, loss=None)
    info = Info(placed=1.0, first_token=9.0, last_token=9.5, evaluating=2.0, placement=loads)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(otel_names, "of_slot", lambda info: {})
        steps = [(s.name[10:], s.start, s.end, s.is_call) for s in otel._steps(info, {})]
    assert steps[1:3] == [("load", 1.0, 7.0, True), ("prefill", 7.0, 9.0, True)]


# what viewers make of it


def langfuse_type(attributes: dict[str, Any]) -> str:
    """By Langfuse's ObservationTypeMapper: an operation, a tool's name, then any model."""
    operations = {"chat": "GENERATION", "text_completion": "GENERATION", "execute_tool": "TOOL"}
    if attributes.get("gen_ai.operation.name") in operations:
        return operations[attributes["gen_ai.operation.name"]]
    if "gen_ai.tool.name" in attributes:
        return "TOOL"
    models = ("gen_ai.request.model", "gen_ai.response.model", "llm.model_name", "model")
    return "GENERATION" if any(name in attributes for name in models) else "SPAN"


def test_langfuse_counts_the_tokens_once_and_finds_session_and_user(
    app: Any, collector: Collector
) -> None:
    chat(app(), prompt_cache_key="conversation of ann")
    spans = [of(span) for span in collector.wait()]
    assert sorted(map(langfuse_type, spans)) == ["GENERATION", *["SPAN"] * 4]
    assert sum("gen_ai.request.model" in span for span in spans) == 1
    assert sum(any("gen_ai.usage" in name for name in span) for span in spans) == 1
    assert {span["user.id"] for span in spans} == {"ann"}
    (session,) = {span["session.id"] for span in spans}
    assert len(session) == 32 and "ann" not in session
    (call,) = (span for span in spans if "gen_ai.request.model" in span)
    assert call["gen_ai.conversation.id"] == session
    (root,) = (span for span in collector.spans if span.kind == SERVER)
    first = datetime.fromisoformat(call["langfuse.observation.completion_start_time"])
    times = root.start_time_unix_nano, 1e9 * first.timestamp(), root.end_time_unix_nano
    assert times == tuple(sorted(times))


def test_phoenix_reads_the_messages(
    app: Any, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Phoenix converts JSON of messages with roles and typed parts."""
    monkeypatch.setenv(otel_names.CAPTURE, "SPAN_ONLY")
    call = {"id": "c1", "type": "function", "function": {"name": "time", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "Be kind."},
        *USER,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "noon"},
    ]
    chat(app(), messages=messages)
    (call_span,) = (of(s) for s in collector.wait() if s.kind == CLIENT)
    assert json.loads(call_span["gen_ai.input.messages"]) == [
        {"role": "system", "parts": [{"type": "text", "content": "Be kind."}]},
        {"role": "user", "parts": [{"type": "text", "content": "How are you?"}]},
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": "c1", "name": "time", "arguments": "{}"}],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "noon"}]},
    ]
    assert json.loads(call_span["gen_ai.output.messages"]) == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": "I am well"}],
            "finish_reason": "stop",
        }
    ]


@pytest.mark.parametrize("value", ["", "NO_CONTENT", "EVENT_ONLY", "false"])
def test_contents_need_the_opt_in(
    value: str, app: Any, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(otel_names.CAPTURE, value)
    chat(app(), stop=["!"], temperature=0.5)
    spans = collector.wait()
    text = "".join(str(span) for span in spans)
    assert "How are you" not in text and "I am" not in text and "sk-ann" not in text
    (call,) = (of(s) for s in spans if s.kind == CLIENT)
    assert call["gen_ai.request.temperature"] == 0.5
    assert call["gen_ai.request.stop_sequences"] == ["!"]


# traces of clients


def test_a_trace_is_joined_and_passed_on(app: Any, collector: Collector) -> None:
    driver = Noting()
    chat(app(driver), KEY | {"traceparent": CALLER, "tracestate": "a=b", "baggage": "secret=1"})
    spans = collector.wait()
    (root,) = (span for span in spans if span.kind == SERVER)
    assert {span.trace_id.hex() for span in spans} == {CALLER[3:35]}
    assert root.parent_span_id.hex() == CALLER[36:52]
    assert driver.lines == [
        f"traceparent: 00-{CALLER[3:35]}-{root.span_id.hex()}-01\r\ntracestate: a=b\r\n"
    ]


def test_a_trace_of_its_own_has_a_link(app: Any, collector: Collector) -> None:
    driver = Noting()
    chat(app(driver, otel=OtelConfig(parent="link")), KEY | {"traceparent": CALLER})
    spans = collector.wait()
    (root,) = (span for span in spans if span.kind == SERVER)
    assert root.trace_id.hex() != CALLER[3:35] and not root.parent_span_id
    assert [link.span_id.hex() for link in root.links] == [CALLER[36:52]]
    assert of(root)["caller.trace_id"] == CALLER[3:35]
    assert f"00-{root.trace_id.hex()}-{root.span_id.hex()}-01" in driver.lines[0]


def test_a_client_that_does_not_sample_is_heeded(app: Any, collector: Collector) -> None:
    driver = Noting()
    client = app(driver)
    chat(client, KEY | {"traceparent": CALLER[:-1] + "0"})
    chat(client)
    spans = collector.wait()
    assert CALLER[3:35] not in {span.trace_id.hex() for span in spans}
    assert driver.lines[0].startswith(f"traceparent: 00-{CALLER[3:35]}-")
    assert driver.lines[0].endswith("-00\r\n")


@pytest.mark.parametrize("sent", ["00-x-y-01", CALLER[:40], "\x00" * 90, CALLER.upper() + "-z"])
def test_a_broken_traceparent_is_ignored(sent: str, app: Any, collector: Collector) -> None:
    chat(app(), KEY | {"traceparent": sent, "tracestate": "\x01"})
    (root,) = (span for span in collector.wait() if span.kind == SERVER)
    assert not root.parent_span_id


def test_a_server_gets_the_header_lines() -> None:
    seen: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(dict(self.headers))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    pool = ConnectionPool(f"http://127.0.0.1:{server.server_port}")
    cancel = Cancel()
    cancel.headers = f"traceparent: {CALLER}\r\n"
    assert pool.ask("GET", "/", cancel=cancel)[0] == 200
    assert pool.ask("GET", "/")[0] == 200
    pool.close()
    server.shutdown()
    server.server_close()
    assert [headers.get("traceparent") for headers in seen] == [CALLER, None]


# faults and bounds


def test_an_error_is_one_of_the_spans(app: Any, collector: Collector) -> None:
    client = app(Noting([*say("I")[0]], BackendDown("it died")))
    answer = chat(client, model="scripted")
    assert answer.status_code >= 500
    spans = collector.wait()
    assert {span.status.code for span in spans} == {2}
    for span in spans:
        if span.kind in (SERVER, CLIENT):
            assert of(span)["error.type"] == "upstream_down"
    (call,) = (of(s) for s in spans if s.kind == CLIENT)
    assert call["gen_ai.response.finish_reasons"] == ["error"]


def test_a_refused_key_has_no_call_of_a_model(app: Any, collector: Collector) -> None:
    chat(app(), {"Authorization": "Bearer sk-wrong-0123456789"})
    (root,) = collector.wait()
    assert of(root)["http.response.status_code"] == 401
    assert "user.id" not in of(root)


def test_no_answer_waits_for_a_collector_that_refuses(
    app: Any,
    collector: Collector,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    collector.status, collector.delay = 400, 1.0
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "30")
    monkeypatch.setattr(otel._lost, "logged", -otel.QUIET)
    client = app()
    with caplog.at_level(logging.WARNING):
        began = time.monotonic()
        for _ in range(10):
            assert chat(client).status_code == 200
        assert time.monotonic() - began < 9.0  # the answers of the collector take ten seconds
        wait_until(lambda: "otel: traces are lost: " in caplog.text)
        chat(client)
        services_of(client.application).life.close()  # sends the rest
    (line,) = (entry.getMessage() for entry in caplog.records if "otel" in entry.getMessage())
    assert "400" in line and "Check OTEL_EXPORTER_OTLP_ENDPOINT" in line
    assert traces_of(client)._open == {}


def test_a_collector_that_hangs_delays_no_answer_and_is_given_few_spans(
    app: Any, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes connections, and never answers. What does not fit into the queue is dropped."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        url = f"http://127.0.0.1:{hangs.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        client = app()
        traces = traces_of(client)
        began = time.monotonic()
        for _ in range(30):
            assert chat(client).status_code == 200
        assert time.monotonic() - began < 15.0  # an export of eight spans ends after a second
        assert traces._open == {}
        assert len(traces._processor._batch_processor._queue) <= 16
        began = time.monotonic()
        services_of(client.application).life.close()
        assert time.monotonic() - began < 20.0


def test_contents_are_bounded(
    app: Any, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(otel_names.CAPTURE, "true")
    monkeypatch.setattr(otel_names, "MOST_CONTENT", 20)
    old = {"role": "user", "content": "x" * 30}
    chat(
        app(Noting(*say(*["ab"] * 40))),
        messages=[old, {"role": "assistant", "content": "y"}, *USER],
    )
    (call,) = (of(s) for s in collector.wait() if s.kind == CLIENT)
    inputs = json.loads(call["gen_ai.input.messages"])
    assert [message["role"] for message in inputs] == ["assistant", "user"]
    (answer,) = json.loads(call["gen_ai.output.messages"])
    assert answer["parts"][0]["content"] == "ab" * 10


# variables


def test_the_latest_names_are_an_opt_in(
    app: Any, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http, gen_ai_latest_experimental")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "kitchen")
    answer = chat(app(), stream=True)
    answer.get_data()
    answer.close()
    (call,) = (of(s) for s in collector.wait() if s.kind == CLIENT)
    assert call["gen_ai.request.stream"] is True
    assert collector.schemas == {otel_names.LATEST}
    assert collector.resource["service.name"] == "kitchen"


@pytest.mark.parametrize(
    ("variables", "on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "TRUE"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_variables_of_the_standard_switch_it_on(variables: dict[str, str], on: bool) -> None:
    assert otel_names.enabled(variables) is on


def test_the_usual_sampler_leaves_requests_out_before_they_begin(
    app: Any, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that samples is heeded nevertheless; a backend learns that it need not trace."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    driver = Noting()
    client = app(driver)
    chat(client)
    assert traces_of(client)._open == {}
    chat(client, KEY | {"traceparent": CALLER})
    assert {span.trace_id.hex() for span in collector.wait()} == {CALLER[3:35]}
    unsampled, joined = driver.lines
    assert re.fullmatch(r"traceparent: 00-[0-9a-f]{32}-[0-9a-f]{16}-00\r\n", unsampled)
    assert joined.startswith(f"traceparent: 00-{CALLER[3:35]}-") and joined.endswith("-01\r\n")


@pytest.mark.parametrize(
    ("sampler", "argument", "expected"),
    [
        ("parentbased_traceidratio", "0.01", 0.01),
        ("parentbased_traceidratio", "", None),
        ("traceidratio", "0.01", None),
        ("", "0.01", None),
    ],
)
def test_other_samplers_are_those_of_the_sdk(
    sampler: str, argument: str, expected: float | None
) -> None:
    variables = {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}
    assert otel_names.share(variables) == expected
