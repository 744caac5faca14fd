"""Measures how a long ChatGLM prompt delays other requests: /health and another backend's stream.

``python -m benchmarks.chatglm_stall [--model FILE] [--tokens 1500]``

One gateway has two backends: a ChatGLM model, and the server of 2023 with a model of random
weights. For some seconds, /health is requested every 10 ms and a stream of the second backend is
read, first with the ChatGLM model idle, then while it evaluates prompts of the given length one
after the other. It prints the latency of /health and the pauses between chunks of the stream, in
milliseconds.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

from tools import made_up_chatglm, made_up_model, servers
from tools.processes import Gateway, ModelServer

SECONDS = 10.0
PACE = 0.01


class Watch:
    """The timed requests of other clients."""

    def __init__(self, port: int, other: str) -> None:
        self._port = port
        self._other = other
        self._over = threading.Event()
        self.health: list[float] = []
        self.gaps: list[float] = []

    def during(self, seconds: float) -> None:
        threads = [threading.Thread(target=work) for work in (self._ask, self._read)]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self._over.set()
        for thread in threads:
            thread.join()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        while not self._over.is_set():
            began = time.perf_counter()
            connection.request("GET", "/health")
            connection.getresponse().read()
            seconds = time.perf_counter() - began
            self.health.append(seconds)
            time.sleep(max(0.0, PACE - seconds))
        connection.close()

    def _read(self) -> None:
        while not self._over.is_set():
            with _Chat(self._port, self._other, "Hello", 400, stream=True) as answer:
                last = 0.0
                while not self._over.is_set() and answer.readline():
                    answer.readline()  # the empty line after the event
                    now = time.perf_counter()
                    if last:
                        self.gaps.append(now - last)
                    last = now


class _Chat:
    """A chat request in progress."""

    def __init__(self, port: int, model: str, text: str, tokens: int, stream: bool) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        body = {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": tokens,
            "stream": stream,
        }
        head = {"Content-Type": "application/json"}
        self._connection.request("POST", "/v1/chat/completions", json.dumps(body), head)

    def __enter__(self) -> http.client.HTTPResponse:
        return self._connection.getresponse()

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def prompts(port: int, model: str, tokens: int, over: threading.Event) -> list[float]:
    """Send prompts of about so many tokens, one after the other; return the seconds of each
    evaluation."""
    times = []
    # A character that is in no vocabulary becomes one token per byte, whatever the model.
    text = "€" * max(1, (tokens - 20) // 3)
    while not over.is_set():
        with _Chat(port, model, text, 1, stream=False) as answer:
            reply = json.load(answer)
        times.append(reply["timings"]["prompt_ms"] / 1000)
    print(f"  prompts of {reply['usage']['prompt_tokens']} tokens: {len(times)}, ", end="")
    print(f"each {min(times):.2f} to {max(times):.2f} s")
    return times


def say(name: str, values: list[float]) -> None:
    ordered = sorted(1000 * value for value in values)
    cells = [f"p{p:g} {ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))]:7.1f}"
             for p in (50, 90, 99)]  # fmt: skip
    print(f"  {name:22} {'  '.join(cells)}  max {ordered[-1]:7.1f}  ({len(ordered)} values)")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chatglm_stall")
    parser.add_argument("--model", type=Path, default=servers.ROOT / "models/tinychat-chatglm3.bin")
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    args = parser.parse_args(argv)
    binary = servers.build("llama-2023")
    model = args.model if args.model.is_file() else made_up_chatglm.cached()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder)
        server = ModelServer("llama-2023", binary, made_up_model.cached(), log / "llama", threads=1)
        flags = ["--llama-api", server.url, "--slots", "2", "--chatglm-model", str(model)]
        flags += ["--data", folder]
        gateway = Gateway(flags, log / "gateway")
        try:
            server.start()
            gateway.start()
            port = int(gateway.url.rsplit(":", 1)[1])
            return _measure(port, model.stem, args)
        finally:
            gateway.kill()
            server.kill()


def _measure(port: int, name: str, args: argparse.Namespace) -> int:
    other = _other(port, name)
    print(f"{name}: milliseconds")
    for busy in (False, True):
        print(" while a long prompt is evaluated" if busy else " with the model idle")
        watch, over = Watch(port, other), threading.Event()
        load = threading.Thread(target=prompts, args=(port, name, args.tokens, over))
        if busy:
            load.start()
        watch.during(args.seconds)
        over.set()
        if busy:
            load.join()
        say("GET /health", watch.health)
        say("pauses of a stream", watch.gaps)
    return 0


def _other(port: int, name: str) -> str:
    """Return the name of the other model, once both are available."""
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/v1/backends")
        backends = json.load(connection.getresponse())["data"]
        connection.close()
        if all(backend["state"] == "up" for backend in backends):
            return next(str(backend["model"]) for backend in backends if backend["id"] != name)
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
