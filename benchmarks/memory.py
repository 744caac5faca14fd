"""How much memory a worker takes after many different requests.

    python -m benchmarks.memory [--requests 100000]

Four APIs, streamed and whole, in turns of 3 000 conversations, before a stub; the requests of one
of two keys are captured. What a gateway remembers is bounded, so its memory stops growing.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
from collections.abc import Callable
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from typing import Any

from tests.integration.child_processes import children
from tests.soak.gauges import memory
from tools.processes import Gateway, ask

from .stub_process import Stub

CLIENTS = 24
CONVERSATIONS = 3000
POINTS = (2_400, 5_000, 14_000, 30_000, 50_000)  # the first: ten minutes of the soak
WORDS = "the quick brown fox jumps over a lazy dog while rain falls on quiet hills".split()
KEYS = {"ann": "sk-ann-0123456789", "bob": "sk-bob-0123456789"}
APIS: dict[str, Callable[[list[dict[str, str]], int], dict[str, Any]]] = {
    "/v1/chat/completions": lambda turns, tokens: {"messages": turns, "max_tokens": tokens},
    "/v1/messages": lambda turns, tokens: {"messages": turns, "max_tokens": tokens},
    "/v1/responses": lambda turns, tokens: {"input": turns, "max_output_tokens": tokens},
    "/api/chat": lambda turns, tokens: {"messages": turns, "options": {"num_predict": tokens}},
}


def question(number: int) -> tuple[str, bytes, str]:
    """The path, the body and the key of a request."""
    rng = random.Random(number)
    conversation = rng.randrange(CONVERSATIONS)
    words, turns = random.Random(conversation), list[dict[str, str]]()
    for _ in range(rng.randrange(1, 4)):
        text = f"{' '.join(words.choices(WORDS, k=12))} {conversation}?"
        turns.append({"role": "user", "content": text})
        turns.append({"role": "assistant", "content": " ".join(words.choices(WORDS, k=20))})
    path = rng.choice([*APIS])
    body = APIS[path](turns[:-1], rng.randrange(4, 40))
    body |= {"model": "stub", "stream": rng.random() < 0.5}
    return path, json.dumps(body).encode(), rng.choice([*KEYS.values()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    requests: int = parser.parse_args().requests
    folder = Path(tempfile.mkdtemp(prefix="memory-"))
    stub, numbers = Stub(folder), count()
    ask(f"{stub.upstream}/pace/0")
    keys = folder / "keys"
    keys.write_text(f"ann {KEYS['ann']} capture=all\nbob {KEYS['bob']}\n")
    keys.chmod(0o600)
    flags = f"--llama-api {stub.upstream} --api-key-file {keys} --data {folder / 'data'}"
    gateway = Gateway([*flags.split(), "--no-local-embeddings"], folder / "gateway.log")
    gateway.start()
    (worker,) = children(gateway.pid)

    def work() -> None:
        connection = HTTPConnection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
        while (number := next(numbers)) < requests:
            path, body, key = question(number)
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{path}: {answer.status} {data[:200]!r}")
            if number in POINTS:
                print(f"{number:7} requests: {memory(worker) / 1e6:.1f} MB", flush=True)
        connection.close()

    clients = [threading.Thread(target=work) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    print(f"{requests:7} requests: {memory(worker) / 1e6:.1f} MB, idle")
    gateway.stop()
    stub.process.kill()


if __name__ == "__main__":
    main()
