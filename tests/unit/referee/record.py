"""Records answers at temperature 0 that repeat themselves, for the tests of the referee.

    python -m tests.unit.referee.record smollm2 PROMPTS [--server llama-2026] [--slots 4]
    python -m tests.unit.referee.record made-up PROMPTS

Made-up weights are drawn anew for every two prompts, and their attention is weak: such a model has
hardly any memory, so it soon comes back to where it was. An answer that does not end by itself
goes to MODEL.json.xz beside this file: its prompt and its pieces, of all of it, or until a period
has stood for twice the size that counts.
"""

from __future__ import annotations

import argparse
import json
import lzma
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import gguf
import requests

from proxy.referee import PROSE, find
from tools import made_up_model, servers, smollm2

HERE = Path(__file__).parent
TOKENS = 1500  # of an answer, at most
EACH = 2  # prompts of one model with made-up weights
ATTENTION = (0.01, 0.03, 0.05)
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


CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def written(url: str, prompt: str) -> tuple[list[str], bool]:
    """The pieces of an answer, and whether it goes on."""
    body = {
        "prompt": prompt,
        "temperature": 0,
        "n_predict": TOKENS,
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


@contextmanager
def served(name: str, model: Path, slots: int) -> Iterator[str]:
    """The URL of a server with this model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(servers.find(name)), "-m", str(model), "--port", str(port), "-t", "1"]
    command += ["-np", str(slots), "-c", str(2048 * slots)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                if requests.get(f"{url}/health", timeout=1).status_code != 503:
                    break
            except requests.ConnectionError:
                time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait()


def forgetful(path: Path, seed: int, attention: float) -> Path:
    """A model of made-up weights whose attention is weak. With none, a token follows from the one
    before it, so the answer at temperature 0 repeats itself, whatever the processor rounds."""
    made_up_model.write(path, seed)
    for tensor in gguf.GGUFReader(path, "r+").tensors:
        if "attn_output" in tensor.name:
            tensor.data[:] = tensor.data * attention
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=("smollm2", "made-up"))
    parser.add_argument("prompts", type=int)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--server", default="llama-2026")
    args = parser.parse_args()
    recorded: list[dict[str, Any]] = []

    def record(model: Path, todo: Sequence[str], form: str) -> None:
        with (
            served(args.server, model, args.slots) as url,
            ThreadPoolExecutor(args.slots) as pool,
        ):
            answers = {pool.submit(written, url, form.format(prompt)): prompt for prompt in todo}
            for answer in as_completed(answers):
                pieces, goes_on = answer.result()
                if goes_on:
                    recorded.append({"prompt": answers[answer], "pieces": pieces})
                    data = json.dumps(recorded, ensure_ascii=False).encode()
                    (HERE / f"{args.model}.json.xz").write_bytes(lzma.compress(data, preset=9))
                print(len(recorded), len(pieces), goes_on, answers[answer], flush=True)

    todo = prompts()[: args.prompts]
    if args.model == "smollm2":
        path = smollm2.find()
        assert path is not None, "python -m tools.smollm2 fetch"
        record(path, todo, CHAT)
        return
    with tempfile.TemporaryDirectory() as folder:
        for at in range(0, len(todo), EACH):
            seed = 41 + at // EACH
            attention = ATTENTION[seed % len(ATTENTION)]
            model = forgetful(Path(folder, "model.gguf"), seed, attention)
            record(model, todo[at : at + EACH], "{}")


if __name__ == "__main__":
    main()
