"""No request, and no backend's template, keeps others waiting: each test asks a real gateway with
the worst there is, while another thread asks for /livez again and again.

What counts is how long the gateway's loop was held: the CPU that its thread used between such a
question and its answer. That does not depend on how busy the machine is, as seconds would.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.conftest import StartGateway
from tools.processes import Gateway, ModelServer, free_port

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.slow,
    pytest.mark.alone,
]

HELD = 0.3  # seconds of CPU of the loop; before it was from 0.6 to 120. A busy machine takes thrice
SAID = [{"role": "user", "content": "hello"}]


def _worker(pid: int) -> int:
    """The process that serves: gunicorn's only child."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else pid


def _cpu(pid: int) -> float:
    """Seconds of CPU of a process's first thread, which runs the loop."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


@contextmanager
def watched(gateway: Gateway) -> Iterator[list[float]]:
    """How long the loop was held, seen by each question meanwhile."""
    held: list[float] = []
    over = threading.Event()
    pid = _worker(gateway.pid)

    def poll() -> None:
        with httpx.Client(base_url=gateway.url, timeout=60) as client:
            while not over.is_set():
                before = _cpu(pid)
                client.get("/livez").raise_for_status()
                held.append(_cpu(pid) - before)
                over.wait(0.005)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield held
    finally:
        over.set()
        thread.join(60)


def _schema(schema: Any) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return {"messages": SAID, "response_format": form, "max_tokens": 1}


def _tools(count: int, parameters: Any) -> dict[str, Any]:
    tools = [
        {"type": "function", "function": {"name": f"f{i}", "parameters": parameters(i)}}
        for i in range(count)
    ]
    return {"messages": SAID, "tools": tools, "tool_choice": "required", "max_tokens": 1}


WORST: dict[str, tuple[str, Callable[[], dict[str, Any]], tuple[int, ...]]] = {
    "200 patterns": (
        "/v1/chat/completions",
        lambda: _schema(
            {
                "type": "object",
                "properties": {
                    f"p{i}": {
                        "type": "string",
                        "pattern": "^{0}{0}{0}$".format("[a-z]{1,%d}" % (400 + i)),  # noqa: UP031
                    }
                    for i in range(200)
                },
            }
        ),
        (400,),
    ),
    "enum of 200 000": (
        "/v1/chat/completions",
        lambda: _schema({"enum": [f"v{i}" for i in range(200_000)]}),
        (400,),
    ),
    "const of 41 000": (
        "/v1/chat/completions",
        lambda: _schema({"const": "x" * 41_000}),
        (200, 400),
    ),
    "4000 optional alternatives": (
        "/v1/chat/completions",
        lambda: _schema({"type": "string", "pattern": "(a|b)?" * 4000}),
        (200, 400),
    ),
    "a thousand tools": (
        "/v1/chat/completions",
        lambda: _tools(
            1000,
            lambda i: {
                "type": "object",
                "properties": {f"p{k}": {"type": "string", "minLength": i + k} for k in range(20)},
            },
        ),
        (200, 400),
    ),
    "tool with a pattern": (
        "/v1/chat/completions",
        lambda: _tools(1, lambda i: {"properties": {"a": {"pattern": "(a|b)?" * 2000}}}),
        (200, 400),
    ),
    "grammar": (
        "/v1/completions",
        lambda: {
            "prompt": "x",
            "max_tokens": 1,
            "grammar": "root ::= "
            + " ".join(f"a{i}" for i in range(15_000))
            + "\n"
            + "".join(f'a{i}::="x"\n' for i in reversed(range(15_000))),
        },
        (400,),
    ),
    "300 000 messages": (
        "/v1/chat/completions",
        lambda: {"messages": [{"role": "user", "content": "x"}] * 300_000},
        (400,),
    ),
    "16 000 messages": (
        "/v1/messages",
        lambda: {"messages": [{"role": "user", "content": "x" * 500}] * 16_000, "max_tokens": 1},
        (400,),
    ),
    "a million biases": (
        "/v1/completions",
        lambda: {"prompt": "x", "logit_bias": {str(i): 1 for i in range(1_000_000)}},
        (400,),
    ),
    "lists of lists": (
        "/v1/completions",
        lambda: {"prompt": "x", "stop": [[]] * 1_000_000},
        (400,),
    ),
}


@pytest.mark.parametrize("name", WORST)
def test_worst_request_does_not_hold_the_loop(
    name: str, old_server: ModelServer, module_gateway: StartGateway
) -> None:
    gateway = module_gateway("--llama-api", old_server.url)
    route, body, expected = WORST[name]
    httpx.post(gateway.url + "/v1/chat/completions",
               json=_schema({"type": "object"}), timeout=60)  # fmt: skip
    raw = json.dumps(body()).encode()
    with watched(gateway) as held:
        for _ in range(2):
            answer = httpx.post(
                gateway.url + route,
                content=raw,
                headers={"Content-Type": "application/json"},
                timeout=100,
            )
            assert answer.status_code in expected, answer.text[:500]
    assert len(held) > 2
    assert max(held) < HELD


STUB = """
import sys
from benchmarks import stub
stub.TEMPLATE = open(sys.argv.pop(1)).read()
stub.main()
"""
NESTED = "{% set a = [1] %}{% set b = [1] %}" + "{% set a = [a, a] %}{% set b = [b, b] %}" * 34
TEMPLATES = {
    "comparison": NESTED + "{{ a == b }}",
    "constants": "{{ " + "+".join(["a.b[c]"] * 40) + " }}" + "{{ a.b[c] ~ 'x' }}" * 1500,
    "work": "{% for i in range(90000) %}{% if messages[0] == messages %}x{% endif %}{% endfor %}",
    "only sometimes": "{% if messages | length > 1 %}"
    + "{% for i in range(4000) %}{% for j in range(4000) %}{% endfor %}{% endfor %}"
    + "{% endif %}{{ messages[-1].content }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_worst_template_does_not_hold_the_loop(
    name: str, gateway: StartGateway, tmp_path: Path
) -> None:
    source = tmp_path / "chat.jinja"
    source.write_text(TEMPLATES[name])
    port = free_port()
    stub = subprocess.Popen(
        [sys.executable, "-c", STUB, str(source), "--generation", "2026", "--port", str(port)],
        stdout=subprocess.DEVNULL,
    )
    try:
        running = gateway("--llama-api", f"http://127.0.0.1:{port}")
        with watched(running) as held:
            for count in (1, 2, 3):
                answer = httpx.post(
                    running.url + "/v1/chat/completions",
                    json={"messages": SAID * count, "max_tokens": 1},
                    timeout=60,
                )
                assert answer.status_code in (200, 400), answer.text[:500]
        assert max(held) < HELD
    finally:
        stub.kill()
        stub.wait()
