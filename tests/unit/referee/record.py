"""Records answers of SmolLM2 at temperature 0 that repeat themselves, for the tests of the referee.

    python -m tests.unit.referee.record PROMPTS [--server llama-2026] [--slots 4] [--tokens 1500]

An answer that does not end by itself goes to looping.json.xz beside this file: the prompt and the
pieces of text, of the whole answer, or until a period has stood for twice the size that counts.
"""

from __future__ import annotations

import argparse
import json
import lzma
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any

import requests

from proxy.referee.loops import PROSE, find
from tools import servers, smollm2

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
    """All of them: eight about each topic."""
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
    text = bytearray()
    last: dict[str, Any] = {}
    with requests.post(f"{url}/completion", json=body, stream=True, timeout=900) as answer:
        for line in answer.iter_lines():
            if line.startswith(b"data: "):
                last = json.loads(line[6:])
                if last["content"]:
                    pieces.append(last["content"])
                    text += last["content"].encode()
                    loop = find(text) if len(pieces) % 16 == 0 else None
                    if loop and len(text) - loop.start > 2 * max(PROSE, 3 * loop.period):
                        return pieces, True
    return pieces, last.get("stop_type") == "limit" or bool(last.get("stopped_limit"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", type=int)
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--server", default="llama-2026")
    asked = parser.parse_args()
    model, binary = smollm2.find(), servers.find(asked.server)
    assert model and binary, "build the server and fetch the model first"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(binary),
        "-m",
        str(model),
        "--port",
        str(port),
        "-t",
        "2",
        "-np",
        str(asked.slots),
    ]
    command += ["-c", str(2048 * asked.slots)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                if requests.get(f"{url}/health", timeout=1).ok:
                    break
            except requests.ConnectionError:
                time.sleep(0.1)
        recorded: list[dict[str, Any]] = []
        with ThreadPoolExecutor(asked.slots) as pool:
            todo = prompts()[: asked.prompts]
            answers = {pool.submit(written, url, prompt, asked.tokens): prompt for prompt in todo}
            for answer in as_completed(answers):
                pieces, cut = answer.result()
                if cut:
                    recorded.append({"prompt": answers[answer], "pieces": pieces})
                    data = json.dumps(recorded, ensure_ascii=False).encode()
                    FILE.write_bytes(lzma.compress(data, preset=9))
                print(len(recorded), len(pieces), cut, answers[answer], flush=True)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
