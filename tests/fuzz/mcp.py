"""Fuzzes both ends of MCP in a running gateway.

    python -m tests.fuzz.mcp --seconds 600 [--seed 1] [--server llama-2026] [--no-keys]

A server of our own lists tools and answers calls as no server should: lists without end, the same
cursor for ever, schemas that are deep or huge, wrong types, broken and slow answers. Requests of
/v1/responses and /v1/messages name it, and /mcp publishes the tools of a configured one. /mcp
itself gets broken JSON-RPC, alone and in lists. Besides what `tests.fuzz.bodies` holds of each
answer: a fault of the hostile server is a 502 or 504, or the result of a tool; what /mcp answers is
JSON-RPC; and no client process of a request is left.

What the server does depends on the URL alone, which has the number of the case.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.fuzz import seeds
from tests.fuzz.mutations import Mutator, Raw, broken, deep, deep_objects, encoded
from tests.fuzz.subject import (
    ALLOWED,
    TOOLS,
    Answer,
    Case,
    Report,
    Subject,
    command,
    drive,
    few_helpers,
)

FAULTS = ALLOWED | {502, 504}  # of the hostile server
IDLE = 2  # client processes of the configured server
TOOL = {
    "name": "f",
    "description": "Add one",
    "inputSchema": {
        "type": "object",
        "properties": {"case": {"type": "string", "enum": ["x", "y"]}},
        "additionalProperties": False,
    },
    "annotations": {"readOnlyHint": True},
}
SOUND: dict[str, Any] = {
    "initialize": {
        "protocolVersion": "2025-06-18",
        "capabilities": {"tools": {}, "prompts": {}, "resources": {}},
        "serverInfo": {"name": "hostile", "version": "1"},
    },
    "ping": {},
    "tools/list": {"tools": [TOOL]},
    "prompts/list": {"prompts": [{"name": "p", "arguments": [{"name": "a"}]}]},
    "resources/list": {"resources": [{"uri": "file:///etc/passwd", "name": "r"}]},
    "tools/call": {
        "content": [{"type": "text", "text": "4"}],
        "structuredContent": {"a": 1},
        "isError": False,
    },
}
WAYS = ["sound", "call", "mutated", "mutated", "pages", "many", "large", "deep", "sent", "sent"]
CALLS = ["", "pages", "mutated", "large", "deep", "sent"]  # of a server with a sound list


def result(rng: random.Random, mutator: Mutator, way: str, method: str, cursor: str) -> Any:
    """The result of a method, as such a server has it."""
    value = SOUND[method]
    if way == "mutated" and (method != "initialize" or rng.random() < 0.1):
        return mutator.mutated(rng, value)
    kind = method.partition("/")[0]
    if method.endswith("/list"):
        if way == "pages":
            after = rng.choice(["x", f"{cursor}x", "a" * 100_000, 3, [1]])
            return {kind: [{**TOOL, "name": f"f{cursor[:9]}"}] * 50, "nextCursor": after}
        if way == "many":
            names = rng.choice(["f{}", "f", "a b {}", "{} \u202e\n'\""])
            return {kind: [{**TOOL, "name": names.format(n)} for n in range(5000)]}
    many, size = rng.choice([(1, 3_000_000), (300, 50_000), (1, 65_000), (20, 400_000)])
    nested = rng.choice([deep, deep_objects])(rng.choice([50, 900, 5000, 100_000]))
    odd: Any = nested if way == "deep" else "a " * (size // 2)
    if way in ("large", "deep") and method == "tools/list":
        field = rng.choice(["description", "inputSchema", "inputSchema", "annotations", "_meta"])
        put = odd if field == "description" else {"type": "object", "properties": {"a": odd}}
        return {"tools": [{**TOOL, "name": f"f{n}", field: put} for n in range(many)]}
    if way in ("large", "deep") and method == "tools/call":
        parts = [{"type": "text", "text": odd}] * many
        return rng.choice([{"content": parts}, {"content": [], "structuredContent": {"a": odd}}])
    return value


class Handler(BaseHTTPRequestHandler):
    """Answers as the URL says: /seed/number, or /configured, whose calls are told apart by their
    arguments."""

    mutator: Mutator
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def handle(self) -> None:
        with suppress(OSError, ValueError):  # the client is ended in the middle of a message
            super().handle()

    def do_GET(self) -> None:
        self._send(405, "text/plain", b"")

    do_DELETE = do_GET

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "id" not in message:
            self._send(202, "text/plain", b"")
            return
        method, params = message.get("method", ""), message.get("params") or {}
        cursor = str(params.get("cursor") or "")
        way = random.Random(self.path).choice(WAYS)
        told = self.path
        if self.path == "/configured":
            told, way = str(params.get("arguments")), "call"
        rng = random.Random(f"{told} {method} {cursor}")
        if way == "call":
            way = rng.choice(CALLS) if method == "tools/call" else "sound"
        answer: Any = {"jsonrpc": "2.0", "id": message["id"]}
        if method in SOUND:
            answer["result"] = result(rng, self.mutator, way, method, cursor)
        else:
            answer["error"] = {"code": -32601, "message": "no such method"}
        if way == "mutated" and rng.random() < 0.1:
            answer = self.mutator.mutated(rng, answer)
        data = encoded(answer).encode("utf-8", "surrogatepass")
        with suppress(OSError):
            if way == "sent" and method != "initialize":
                self._send_badly(rng, data)
            elif rng.random() < 0.5:
                self._send(200, "application/json", data)
            else:
                self._send(200, "text/event-stream", b"event: message\ndata: " + data + b"\n\n")

    def _send(self, status: int, kind: str, data: bytes, size: int = -1) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data) if size < 0 else size))
        self.end_headers()
        self.wfile.write(data)

    def _send_badly(self, rng: random.Random, data: bytes) -> None:
        kind = rng.choice(["application/json", "text/event-stream", "text/html", "", "x" * 3000])
        how = rng.randrange(7)
        if how == 0:
            self._send(rng.choice([302, 400, 401, 404, 429, 500, 503]), kind, data)
        elif how == 1:
            self._send(200, kind, data[: len(data) // 2], len(data))
            self.close_connection = True
        elif how == 2:
            self._send(200, kind, broken(rng, data))
        elif how == 3:
            step = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {}}
            event = b"data: " + json.dumps(step).encode() + b"\n\n"
            self._send(200, "text/event-stream", event * 20_000 + b"data: " + data + b"\n\n")
        elif how == 4:
            asked = {"jsonrpc": "2.0", "id": 7, "method": "sampling/createMessage", "params": {}}
            event = b"data: " + json.dumps(asked).encode() + b"\n\n"
            self._send(200, "text/event-stream", event * 50 + b"data: " + data + b"\n\n")
        elif how == 5:
            self._send(200, kind, b"", len(data))
            for at in range(0, min(len(data), 20)):
                self.wfile.write(data[at : at + 1])
                time.sleep(0.1)
            self.close_connection = True
        else:
            self.close_connection = True


@contextmanager
def hostile() -> Iterator[tuple[str, tuple[str, ...]]]:
    """The URL of a hostile server, and the flags of a gateway that may use it."""
    Handler.mutator = Mutator(seeds.words(), list(SOUND.values()))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        config = Path(tempfile.mkdtemp(prefix="mcp-")) / "slotproxy.toml"
        config.write_text(
            f'[agent]\ntool_timeout = 10\n[[mcp]]\nname = "far"\nurl = "{url}/configured"\n'
        )
        tools = ("--tools", f"{TOOLS},far")
        yield url, ("--config", str(config), "--mcp-url", f"{url}/*", *tools)
        server.shutdown()


class Fuzzer:
    def __init__(self, subject: Subject, seed: int, url: str) -> None:
        self.subject = subject
        self.seed = seed
        self.url = url
        self.results = 0  # of tools, at /mcp
        self.bodies = seeds.bodies("mcp.answer")
        self.mutator = Mutator(seeds.words(), self.bodies)

    def case(self, number: int) -> Case:
        rng = random.Random(f"{self.seed}/{number}")
        headers = {"Content-Type": "application/json", **self.subject.key_headers()}
        if rng.random() < 0.25:
            endpoint, path, value = self._naming(rng, number)
            allowed = FAULTS
        else:
            endpoint, path, value = "mcp.answer", "/mcp", self._message(rng, number)
            allowed = ALLOWED
            if rng.random() < 0.5:
                headers["Accept"] = "application/json, text/event-stream"
            if rng.random() < 0.5:
                headers["Mcp-Session-Id"] = rng.choice([*"sstttt", "a" * 5000, "\xff", ""])
            if rng.random() < 0.2:
                headers["MCP-Protocol-Version"] = rng.choice(["2025-03-26", "2025-03-26", "x", ""])
        if rng.random() < 0.3:
            value = self.mutator.mutated(rng, value)
        data = encoded(value).encode("utf-8", "surrogatepass")
        data = broken(rng, data) if rng.random() < 0.05 else data
        hang_up = rng.choice([0.01, 0.1, 0.5]) if rng.random() < 0.05 else None
        return Case(number, endpoint, "POST", path, headers, data, hang_up, allowed)

    def _naming(self, rng: random.Random, number: int) -> tuple[str, str, Any]:
        """A request that names the hostile server, often with a call of its tool."""
        url = f"{self.url}/{self.seed}/{number}"
        if rng.random() < 0.3:
            server = {"type": "url", "name": "far", "url": url}
            message = {"role": "user", "content": "Hi"}
            sent = {"model": "m", "max_tokens": 4, "messages": [message], "mcp_servers": [server]}
            return "anthropic.messages", "/v1/messages", sent
        tool = {"type": "mcp", "server_label": "far", "server_url": url}
        asked = {"type": "mcp_approval_request", "id": "a", "server_label": "far", "name": "f"}
        agreed = {"type": "mcp_approval_response", "approval_request_id": "a", "approve": True}
        chosen = {"type": "mcp", "server_label": "far", "name": "f"}
        sent = {
            "model": "m",
            "max_output_tokens": 20,
            "stream": rng.random() < 0.5,
            "input": [{**asked, "arguments": "{}"}, agreed] if rng.random() < 0.7 else "Hi",
            "tools": [{**tool, "require_approval": rng.choice(["never", "always"])}],
            "tool_choice": rng.choice(["auto", "none", "required", chosen]),
        }
        return "responses.create", "/v1/responses", sent

    def _message(self, rng: random.Random, number: int) -> Any:
        """JSON-RPC for /mcp: a call of the configured server, a known message, or a list."""
        how = rng.random()
        if how < 0.4:
            params = {"name": "far__f", "arguments": {"case": f"{self.seed}/{number}"}}
            if rng.random() < 0.3:
                params["_meta"] = {"progressToken": number}
            return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        if how < 0.5:
            cancelled = {"requestId": 1, "reason": "x"}
            return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancelled}
        if how < 0.7:
            return [rng.choice(self.bodies) for _ in range(rng.choice([0, 1, 3, 32, 33]))]
        if how < 0.75:
            return rng.choice([deep(100_000), deep_objects(900), Raw("[" + "{}," * 9 + "1]")])
        return rng.choice(self.bodies)

    def attempt(self, number: int) -> None:
        case = self.case(number)
        answer = self.subject.attempt(case)
        if answer is not None and case.path == "/mcp":
            self._judge(case, answer)

    def _judge(self, case: Case, answer: Answer) -> None:
        if answer.status != 200 or not answer.whole or answer.kind != "application/json":
            return
        said = json.loads(answer.body)
        for one in said if isinstance(said, list) else [said]:
            is_whole = one.get("jsonrpc") == "2.0" and "id" in one
            if not is_whole or ("result" in one) == ("error" in one):
                self.subject.find("/mcp answers with no JSON-RPC", case, str(one)[:500])
            self.results += "content" in one.get("result", {})


def fuzz(
    subject: Subject, seed: int, *, url: str, seconds: float = 0.0, count: int = 0
) -> tuple[Report, Fuzzer]:
    """Tries cases for a time or up to a number, with the hostile server at this URL."""
    fuzzer = Fuzzer(subject, seed, url)
    report = drive(subject, fuzzer.attempt, seconds=seconds, count=count)
    few_helpers(subject, "proxy.agent.mcp", IDLE)
    return report, fuzzer


if __name__ == "__main__":
    with hostile() as (url, more):
        shown = "results of tools at /mcp: {0.results}"
        sys.exit(command("tests.fuzz.mcp", __doc__, partial(fuzz, url=url), shown, more))
