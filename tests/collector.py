"""A collector of OpenTelemetry on loopback, for tests: it reads with the standard's own package."""

from __future__ import annotations

import importlib
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from tests.fakes import wait_until

INTERNAL, SERVER, CLIENT = 1, 2, 3  # kinds of spans


def _request() -> Any:
    """The message that an exporter sends. Imported on use, since it is part of an extra."""
    module = "opentelemetry.proto.collector.trace.v1.trace_service_pb2"
    return importlib.import_module(module).ExportTraceServiceRequest


class Collector:
    """Takes OTLP over HTTP on loopback. It answers with `status`, after `delay` seconds."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resource: dict[str, Any] = {}
        self.schemas: set[str] = set()
        self.paths: set[str] = set()
        self.status, self.delay = 200, 0.0
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(collector.delay)
                if collector.status == 200:
                    collector.take(self.path, body)
                self.send_response(collector.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def take(self, path: str, body: bytes) -> None:
        self.paths.add(path)
        for group in _request().FromString(body).resource_spans:
            self.resource = {pair.key: value_of(pair.value) for pair in group.resource.attributes}
            for scope in group.scope_spans:
                self.schemas.add(scope.schema_url)
                self.spans += scope.spans

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def wait(self, count: int = 1) -> list[Any]:
        """The spans, once this many requests have come, by their times."""
        wait_until(lambda: sum(s.kind == SERVER for s in self.spans) >= count)
        return sorted(self.spans, key=lambda span: (span.start_time_unix_nano, span.span_id))

    def whole_trace_of(self, request: str) -> list[Any]:
        """The same, once its first span has come, which ends last."""
        wait_until(lambda: any(span.kind == SERVER for span in self.trace_of(request)))
        return self.trace_of(request)

    def trace_of(self, request: str) -> list[Any]:
        """The spans of a request that asked a model, by its id."""
        calls = (span for span in self.spans if of(span).get("gen_ai.request.id") == request)
        trace = next((span.trace_id for span in calls), None)
        return [span for span in self.spans if span.trace_id == trace]


def value_of(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(item) for item in value.array_value.values]
    return getattr(value, kind)


def of(span: Any) -> dict[str, Any]:
    return {pair.key: value_of(pair.value) for pair in span.attributes}
