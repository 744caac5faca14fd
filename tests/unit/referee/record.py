"""Records what models write at temperature 0 until their limit, for the tests of the referee.

    python -m tests.unit.referee.record MODEL PROMPTS TOKENS [--server llama-2026]

MODEL is smollm2 or made-up. The answers that do not end by themselves go to looping.json.xz beside
this file: the prompt, the pieces of text, and which model wrote them.
"""

from __future__ import annotations

import argparse
import json
import lzma
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import requests

from tools import made_up_model, servers, smollm2

FILE = Path(__file__).with_name("looping.json.xz")
ASKED = (
    "Write a very long story about {}, with every detail.",
    "List everything that you know about {}, one item a line, and do not stop.",
    "Explain {} to a child, then to a student, then to an expert, at great length.",
    "Think aloud about {} until you are sure of the answer.",
    "Write a Python program about {} with many functions.",
    "Write a song about {} with verses and a chorus.",
    "Give me a plan for {} with as many steps as you can.",
    "Write a dialogue of two friends about {} that never ends.",
)
TOPICS = """the sea|bread|winter|a lost key|bridges|the moon|bees|an old clock|rain|trains|mountains
    a garden|chess|salt|the night|paper|a market|whales|stairs|glass|tea|a lighthouse|wool|fire
    dust|a river|maps|apples|owls|a violin|sand|ships|letters|a mirror|snow|iron|coffee|a fox
    clouds|numbers|shoes|a castle|honey|the desert|wind|a pencil|stars|soup|horses|a wall
    music|wood|a lamp|fish|roads|a window|gold|books|a tower|seeds|ice|mice|a wheel"""


def prompts() -> list[str]:
    """All of them, in an order in which the first ones differ most."""
    topics = [topic.strip() for topic in TOPICS.replace("\n", "|").split("|")]
    return [form.format(topic) for topic, form in product(topics, ASKED)]


def written(url: str, prompt: str, tokens: int) -> tuple[list[str], bool]:
    """The pieces of an answer, and whether it was cut by the limit."""
    body = {
        "prompt": f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n",
        "temperature": 0,
        "n_predict": tokens,
        "stop": ["<|im_end|>"],
        "stream": True,
    }
    pieces: list[str] = []
    last: dict[str, Any] = {}
    with requests.post(f"{url}/completion", json=body, stream=True, timeout=900) as answer:
        for line in answer.iter_lines():
            if line.startswith(b"data: "):
                last = json.loads(line[6:])
                if last["content"]:
                    pieces.append(last["content"])
    return pieces, last.get("stop_type") == "limit" or bool(last.get("stopped_limit"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=("smollm2", "made-up"))
    parser.add_argument("prompts", type=int)
    parser.add_argument("tokens", type=int)
    parser.add_argument("--server", default="llama-2026")
    asked = parser.parse_args()
    model = smollm2.find() if asked.model == "smollm2" else made_up_model.cached()
    binary = servers.find(asked.server)
    assert model and binary, "build the server and fetch the model first"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(binary), "-m", str(model), "--port", str(port), "-t", "2", "-c", "16384"]
    server = subprocess.Popen([*command, "-np", "4"], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                if requests.get(f"{url}/health", timeout=1).ok:
                    break
            except requests.ConnectionError:
                time.sleep(0.1)
        known = json.loads(lzma.decompress(FILE.read_bytes())) if FILE.exists() else []
        known = [entry for entry in known if entry["model"] != asked.model]
        with ThreadPoolExecutor(4) as pool:
            todo = prompts()[: asked.prompts]
            answers = pool.map(lambda prompt: written(url, prompt, asked.tokens), todo)
            for prompt, (pieces, cut) in zip(todo, answers, strict=True):
                if cut:
                    known.append({"model": asked.model, "prompt": prompt, "pieces": pieces})
        FILE.write_bytes(lzma.compress(json.dumps(known, ensure_ascii=False).encode(), preset=9))
        print(f"{len(known)} answers, {FILE.stat().st_size} bytes")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
