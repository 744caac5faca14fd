"""Measures how well conversations stay cached: evaluated prompt tokens and time to first token.

Interleaved conversations run through the gateway, or directly on the servers. The prompt tokens
that the servers report as evaluated (``timings.prompt_n``) are summed and divided by the total if
each conversation's tokens were evaluated once. For comparison, it computes the same figure for LRU
eviction and for an eviction that knows the future, with the same order of turns.

``python -m benchmarks.affinity [--only WORD] [--json FILE]``; a run is named by the servers
(``2023``, ``2x2023``, ``powerinfer``, ``2026``, ``2026-noram``, ``2026-files`` …) and the route to
them (``gateway``, ``slot-1``, ``nginx``). The model has random weights: tokens are counted, not
words.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.work import Conversation, evaluated, order
from proxy.prompting.prompt import LegacyFormat
from tools import made_up_model, servers
from tools.processes import Gateway, ModelServer, free_port

AT_ONCE = 4
ANSWER = 24  # tokens
WORKS = {"6x6": (6, 6, 6), "36x4": (36, 4, 12)}  # conversations, turns, active at the same time
FORM = LegacyFormat(chat_prompt="")
FLAGS = ["--chat-template", "legacy", "--chat-prompt", "", "--log-level", "warning"]
FLAGS += ["--ledger-days", "0"]  # nothing into the data of this user

Ask = Callable[[list[dict[str, str]]], "Answer"]


class Answer:
    """The result of one turn: text, prompt tokens, evaluated ones, seconds to the first token."""

    def __init__(self) -> None:
        self.text = ""
        self.prompt = self.evaluated = 0
        self.first = 0.0


class Lost(Exception):
    """A request without a complete answer."""


def _stream(url: str, path: str, body: Any) -> Iterator[dict[str, Any]]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=120)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", parts.path + path, json.dumps(body).encode(), headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise Lost(f"{answer.status} {answer.read()[:200]!r}")
        for line in answer:
            if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
                yield json.loads(line[6:])
    except (OSError, http.client.HTTPException) as error:
        raise Lost(repr(error)) from None
    finally:
        connection.close()


def through_gateway(url: str) -> Ask:
    def ask(messages: list[dict[str, str]]) -> Answer:
        answer, began = Answer(), time.monotonic()
        body = {"messages": messages, "max_tokens": ANSWER, "temperature": 0, "stream": True}
        body["stream_options"] = {"include_usage": True}
        for chunk in _stream(url, "/v1/chat/completions", body):
            if "error" in chunk:
                raise Lost(str(chunk["error"]))
            for choice in chunk.get("choices", ()):
                text = choice["delta"].get("content")
                if text:
                    answer.first = answer.first or time.monotonic() - began
                    answer.text += text
            if chunk.get("usage"):
                answer.prompt = chunk["usage"]["prompt_tokens"]
            if chunk.get("timings"):
                answer.evaluated = chunk["timings"]["prompt_n"]
        if not answer.prompt:
            raise Lost("no usage")
        return answer

    return ask


def straight(url: str) -> Ask:
    """Call /completion with any slot, and retry while an old server is busy."""

    def ask(messages: list[dict[str, str]]) -> Answer:
        answer, began = Answer(), time.monotonic()
        body = {"prompt": FORM.render(messages), "n_predict": ANSWER, "temperature": 0}
        body |= {"stream": True, "cache_prompt": True, "slot_id": -1, "stop": ["</s>"]}
        for chunk in _stream(url, "/completion", body):
            if chunk["content"]:
                answer.first = answer.first or time.monotonic() - began
                answer.text += chunk["content"]
            if chunk["stop"]:
                answer.prompt = chunk["tokens_evaluated"]
                answer.evaluated = chunk["timings"]["prompt_n"]
        if not answer.prompt:
            raise Lost("final chunk missing")
        return answer

    return ask


class Result:
    """The result of a run: the multiple, those of other evictions, median seconds, lost
    requests."""

    def __init__(self, work: str, seed: int) -> None:
        count, turns, active = WORKS[work]
        self.turns = order(count, turns, active, AT_ONCE, seed)
        self.conversations = [Conversation(n, turns, seed) for n in range(count)]
        self.sizes: list[list[int]] = [[] for _ in range(count)]
        self.evaluated = 0
        self.firsts: list[float] = []
        self.lost: list[str] = []

    def record(self, number: int, answer: Answer) -> None:
        self.conversations[number].answered(answer.text, answer.prompt)
        self.sizes[number].append(answer.prompt)
        self.evaluated += answer.evaluated
        self.firsts.append(answer.first)

    def figures(self, slots: int) -> dict[str, Any]:
        once = sum(size[-1] for size in self.sizes if size)
        whole = not self.lost
        return {
            "evaluated": self.evaluated,
            "once": once,
            "multiple": round(self.evaluated / once, 3),
            "lru": round(evaluated(self.turns, self.sizes, slots, "lru"), 3) if whole else None,
            "belady": round(evaluated(self.turns, self.sizes, slots, "belady"), 3)
            if whole
            else None,
            "ttft_median_ms": round(1000 * statistics.median(self.firsts), 1),
            "ttft_p90_ms": round(1000 * statistics.quantiles(self.firsts, n=10)[-1], 1),
            "lost": len(self.lost),
        }


def run(work: str, ask: Ask, seed: int) -> Result:
    """Run the work with ``AT_ONCE`` clients, which take the turns in order."""
    result = Result(work, seed)
    lock = threading.Lock()
    over = [threading.Lock() for _ in result.conversations]  # one turn of each at a time
    todo = iter(result.turns)
    gate = threading.Lock()

    def client() -> None:
        while True:
            with gate:  # a turn of a busy conversation makes later turns wait
                number = next(todo, None)
                if number is None:
                    return
                over[number].acquire()
            try:
                answer = ask(result.conversations[number].ask())
                with lock:
                    result.record(number, answer)
            except Lost as error:
                with lock:
                    result.lost.append(str(error))
                    result.conversations[number].answered("", 0)
            finally:
                over[number].release()

    clients = [threading.Thread(target=client) for _ in range(AT_ONCE)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    return result


def _servers(what: str, folder: Path, stack: contextlib.ExitStack) -> list[ModelServer]:
    """Start servers by name, ``[2x]GENERATION[-noram][-files]``: eight slots in total."""
    count = 2 if what.startswith("2x") else 1
    generation, *kinds = what.removeprefix("2x").split("-")
    name = generation if generation == "powerinfer" else f"llama-{generation}"
    binary = servers.find(name)
    if binary is None:
        raise SystemExit(servers.absent(name))
    running = []
    for number in range(count):
        extra: list[str] = []
        if "noram" in kinds or "files" in kinds:
            extra += ["--cache-ram", "0"]
        if "files" in kinds:
            place = folder / f"slots-{number}"
            place.mkdir()
            extra += ["--slot-save-path", f"{place}"]
        slots = 8 // count
        server = ModelServer(
            name,
            binary,
            made_up_model.cached(),
            folder / f"server-{number}.log",
            slots=slots,
            ctx=2048 * slots,
            extra=extra,
        )
        stack.callback(server.kill)
        server.start()
        running.append(server)
    return running


def _nginx(urls: list[str], folder: Path, stack: contextlib.ExitStack) -> str:
    """Start nginx with round robin over the servers."""
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    port = free_port()
    upstream = "".join(f"server {urlsplit(url).netloc};" for url in urls)
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; events {{}} http {{"
        f" access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;"
        f" fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;"
        f" upstream models {{ {upstream} }} server {{ listen 127.0.0.1:{port}; location / {{"
        " proxy_pass http://models; proxy_buffering off; proxy_read_timeout 300; } } }"
    )
    process = subprocess.Popen([binary, "-p", str(folder), "-c", str(config)])
    stack.callback(process.wait)
    stack.callback(process.terminate)
    time.sleep(1)
    return f"http://127.0.0.1:{port}"


def measure(what: str, way: str, work: str, seed: int) -> dict[str, Any]:
    """Do one run with new servers."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running = _servers(what, folder, stack)
        urls = [server.url for server in running]
        if way == "gateway":
            gateway = Gateway([*FLAGS, "--llama-api", ",".join(urls)], folder / "gateway.log")
            stack.callback(gateway.stop)
            gateway.start()
            _all_up(gateway.url, len(urls))
            ask = through_gateway(gateway.url)
        elif way == "nginx":
            ask = straight(_nginx(urls, folder, stack))
        else:
            ask = straight(urls[0])
        result = run(work, ask, seed)
        for lost in result.lost[:3]:
            print("lost:", lost, file=sys.stderr)
        return {"servers": what, "way": way, "work": work, **result.figures(8)}


def _all_up(url: str, count: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
        connection.request("GET", "/health")
        health = json.loads(connection.getresponse().read())
        connection.close()
        if health["backends"]["up"] == count:
            return
        time.sleep(0.1)
    raise SystemExit("the backends did not start")


RUNS = [
    ("2023", "slot-1"),
    ("2023", "gateway"),
    ("2x2023", "nginx"),
    ("2x2023", "gateway"),
    ("powerinfer", "slot-1"),
    ("powerinfer", "gateway"),
    ("2xpowerinfer", "nginx"),
    ("2xpowerinfer", "gateway"),
    ("2026", "slot-1"),
    ("2026", "gateway"),
    ("2x2026", "nginx"),
    ("2x2026", "gateway"),
    ("2026-noram", "slot-1"),
    ("2026-files", "gateway"),
    ("2x2026-files", "gateway"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description="How warm conversations stay.")
    parser.add_argument("--only", default="", help="only runs whose name contains this")
    parser.add_argument("--work", default="", choices=["", *WORKS])
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--json", default="", help="file for the figures")
    args = parser.parse_args()
    rows = []
    for what, way in RUNS:
        for work in WORKS:
            if args.only in f"{what} {way}" and args.work in ("", work):
                row = measure(what, way, work, args.seed)
                rows.append(row)
                print(json.dumps(row), flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
