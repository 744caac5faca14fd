"""The cost of a running batch, or of prewarming, to other requests: their time to the first token
without and beside it.

    python -m benchmarks.idle_slots
    python -m benchmarks.idle_slots --prewarm --runs 4

Conversations begin at random times, and have some turns each. The same conversations are asked at
the same times through two gateways, each before a modelled server (`batching_server`) of its own;
one of them runs a batch meanwhile. So every request beside the batch has its equal without it. Its
lines share a long beginning. With `--prewarm`, the same prompts of 8 000 tokens come through both
gateways instead, and one prewarms each some seconds before. The interval of a ratio is that of 95 %
of bootstrap samples: of blocks of requests that followed one another, because these delay each
other.

The time of the modelled servers hardly depends on other work of the machine. `--runs` are side by
side, each with other conversations.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tools.processes import Child, Gateway, held_port

LINES = 20_000
BEGINNING = "Rule {}: answer in plain words, and never repeat the question. "
SETTLING = 60.0  # seconds after which the gateways know the servers and their clients
BLOCK = 20  # requests of a block
SAMPLES = 2000
LONG = 470  # rules of a prompt of 8 000 tokens,
EACH = 20.0  # mean seconds until the next is prewarmed, and
AHEAD = 8.0  # seconds between prewarming and asking


class Turn(NamedTuple):
    """`at`: seconds from the beginning; `text`: the user's words."""

    at: float
    text: str


class Pair(NamedTuple):
    """Seconds to the first token of the same turn; `turn` counts from 0."""

    turn: int
    alone: float
    beside: float


class World:
    """A gateway before a modelled server."""

    def __init__(self, folder: Path, slots: int, chunk: int) -> None:
        folder.mkdir()
        port = held_port()
        module = [sys.executable, "-m", "benchmarks.batching_server"]
        command = [*module, str(slots), str(port), "--chunk", str(chunk)]
        self._server = Child(command, folder / "server.log")
        flags = ["--llama-api", f"http://127.0.0.1:{port}", "--data", str(folder / "data")]
        self._gateway = Gateway(flags, folder / "gateway.log")

    def __enter__(self) -> httpx.Client:
        self._server.launch()
        self._gateway.start()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self.api = httpx.Client(base_url=self._gateway.url, timeout=300, limits=limits)
        return self.api

    def __exit__(self, *error: object) -> None:
        self.api.close()
        self._gateway.stop()
        self._server.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="side by side")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--gap", type=float, default=15.0, help="mean, between two conversations")
    parser.add_argument("--think", type=float, default=6.0, help="mean seconds between two turns")
    parser.add_argument("--turns", type=int, default=4, help="of a conversation")
    parser.add_argument("--words", type=int, default=800, help="of its first turn")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--chunk", type=int, default=512, help="prompt tokens of a server's step")
    parser.add_argument("--rules", type=int, default=20, help="that all lines begin with")
    parser.add_argument("--own", type=int, default=20, help="words of a line's own")
    parser.add_argument("--prewarm", action="store_true", help="long prompts, instead of a batch")
    options = parser.parse_args()
    with ThreadPoolExecutor(options.runs) as pool:
        results = list(pool.map(lambda seed: run(seed, options), range(options.runs)))
    report([pairs for pairs, _ in results])
    for name in results[0][1]:
        values = [value for _, other in results for value in other[name]]
        print(f"{name}: {statistics.median(values):.2f} (median of {len(values)})")


def run(seed: int, options: argparse.Namespace) -> tuple[list[Pair], dict[str, list[float]]]:
    """The pairs of a run in their order, and measurements of the work beside them, by name."""
    made = conversations(random.Random(seed), options)
    with tempfile.TemporaryDirectory() as name:
        folder, size = Path(name), (options.slots, options.chunk)
        with World(folder / "alone", *size) as alone, World(folder / "beside", *size) as beside:
            batch = "" if options.prewarm else begin(beside, upload(beside, options))
            before, began = answered(beside, batch) if batch else 0, time.monotonic()
            long = long_prompts(random.Random(f"{seed}/long"), options) if options.prewarm else []
            with ThreadPoolExecutor(256) as pool:
                others = [
                    pool.submit(ask_long, api, began, long, prewarm=api is beside)
                    for api in (alone, beside)
                ]
                futures = [
                    [pool.submit(converse, api, began, turns) for api in (alone, beside)]
                    for turns in made
                ]
                firsts = [[future.result() for future in both] for both in futures]
                cold, warm = (other.result() for other in others)
            if batch:
                rate = (answered(beside, batch) - before) / (time.monotonic() - began)
                measured = {"lines answered a second": [rate]}
            else:
                measured = {"first token of a long prompt, s": cold, "prewarmed": warm}
    ordered = sorted(
        (turn.at, Pair(number, without, with_batch))
        for turns, both in zip(made, firsts, strict=True)
        for number, (turn, without, with_batch) in enumerate(zip(turns, *both, strict=True))
        if turn.at > SETTLING
    )
    return [pair for _, pair in ordered], measured


def conversations(chooses: random.Random, options: argparse.Namespace) -> list[list[Turn]]:
    made, at = [], 0.0
    while (at := at + chooses.expovariate(1 / options.gap)) < options.seconds:
        turns, moment = [], at
        for number in range(chooses.randint(1, 2 * options.turns - 1)):
            words = options.words if not number else options.words // 10
            text = " ".join(str(chooses.randrange(1000)) for _ in range(words))
            turns.append(Turn(moment, f"Which of these is odd: {text}?"))
            moment += 2.0 + chooses.expovariate(1 / options.think)
        made.append(turns)
    return made


def converse(api: httpx.Client, began: float, turns: Sequence[Turn]) -> list[float]:
    """Seconds to the first token of each turn, asked at its time, or once the turn before it is
    answered."""
    messages: list[dict[str, str]] = []
    firsts = []
    for turn in turns:
        time.sleep(max(0.0, began + turn.at - time.monotonic()))
        messages.append(said(turn.text))
        first, answer = first_token(api, messages)
        messages.append({"role": "assistant", "content": answer})
        firsts.append(first)
    return firsts


def long_prompts(chooses: random.Random, options: argparse.Namespace) -> list[Turn]:
    prompts, at = [], AHEAD
    while (at := at + AHEAD + chooses.expovariate(1 / EACH)) < options.seconds:
        rules = (BEGINNING.format(chooses.randrange(10**6)) for _ in range(LONG))
        prompts.append(Turn(at, "".join(rules)))
    return prompts


def ask_long(
    api: httpx.Client, began: float, prompts: Sequence[Turn], *, prewarm: bool
) -> list[float]:
    """Seconds to the first token of each."""
    firsts = []
    for prompt in prompts:
        messages = [{"role": "system", "content": prompt.text}, said("Why?")]
        time.sleep(max(0.0, began + prompt.at - AHEAD - time.monotonic()))
        if prewarm:
            api.post("/v1/prewarm", json={"messages": messages})  # 429 if no slot is idle
        time.sleep(max(0.0, began + prompt.at - time.monotonic()))
        firsts.append(first_token(api, messages)[0])
    return firsts


def said(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def first_token(api: httpx.Client, messages: list[dict[str, str]]) -> tuple[float, str]:
    """Seconds to the first token, and the answer."""
    body: dict[str, Any] = {"messages": messages, "max_tokens": 48, "stream": True}
    began, first, parts = time.monotonic(), 0.0, []
    with api.stream("POST", "/v1/chat/completions", json=body) as answer:
        for line in answer.raise_for_status().iter_lines():
            if '"content":"' in line and '"content":""' not in line:
                first = first or time.monotonic() - began
                parts.append(json.loads(line[6:])["choices"][0]["delta"]["content"])
    assert first, "every answer has a token"
    return first, "".join(parts)


def upload(api: httpx.Client, options: argparse.Namespace) -> str:
    beginning = "".join(BEGINNING.format(i) for i in range(options.rules))
    chooses = random.Random(0)
    lines = (
        {
            "custom_id": str(i),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "messages": [
                    {"role": "system", "content": beginning},
                    said(" ".join(str(chooses.randrange(1000)) for _ in range(options.own))),
                ],
                "max_tokens": 64,
            },
        }
        for i in range(LINES)
    )
    data = "\n".join(json.dumps(line) for line in lines)
    sent = api.post("/v1/files", data={"purpose": "batch"}, files={"file": ("lines.jsonl", data)})
    return str(sent.raise_for_status().json()["id"])


def begin(api: httpx.Client, file: str) -> str:
    """Start a batch, and wait until lines are answered."""
    body = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = str(api.post("/v1/batches", json=body).raise_for_status().json()["id"])
    while answered(api, batch) < 3:
        time.sleep(0.05)
    return batch


def answered(api: httpx.Client, batch: str) -> int:
    return int(api.get(f"/v1/batches/{batch}").json()["request_counts"]["completed"])


def report(runs: Sequence[Sequence[Pair]]) -> None:
    kinds = (
        ("all", runs),
        ("first turns", [[pair for pair in pairs if not pair.turn] for pairs in runs]),
        ("later turns", [[pair for pair in pairs if pair.turn] for pairs in runs]),
    )
    print("| requests | number | | alone, ms | beside, ms | ratio | 95 % interval |")
    print("|---|---|---|---|---|---|---|")
    for name, some in kinds:
        for share in (0.5, 0.9, 0.99):
            pairs = [pair for series in some for pair in series]
            alone, beside = quantiles(pairs, share)
            low, high = interval(some, share)
            number = f"| {name} | {len(pairs)}" if share == 0.5 else "| |"
            print(
                f"{number} | p{100 * share:.0f} | {1000 * alone:.0f} | {1000 * beside:.0f}"
                f" | {beside / alone:.3f} | {low:.3f} to {high:.3f} |"
            )


def quantiles(pairs: Sequence[Pair], share: float) -> tuple[float, float]:
    at = int(share * len(pairs))
    return sorted(pair.alone for pair in pairs)[at], sorted(pair.beside for pair in pairs)[at]


def interval(runs: Sequence[Sequence[Pair]], share: float) -> tuple[float, float]:
    """The bounds of the ratio of quantiles in 95 % of bootstrap samples."""
    blocks = [pairs[i : i + BLOCK] for pairs in runs for i in range(0, len(pairs), BLOCK)]
    chooses, ratios = random.Random(0), []
    for _ in range(SAMPLES):
        sample = [pair for block in chooses.choices(blocks, k=len(blocks)) for pair in block]
        alone, beside = quantiles(sample, share)
        ratios.append(beside / alone)
    ratios.sort()
    return ratios[int(0.025 * SAMPLES)], ratios[int(0.975 * SAMPLES)]


if __name__ == "__main__":
    main()
