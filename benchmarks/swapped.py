"""How much is evaluated again when models are swapped: clients of two models of which one has room,
with and without saved slots.

    python -m benchmarks.swapped

Starts llama-servers of 2026 with made-up weights through slotproxy. Each client takes turns in a
conversation of its own; the first turns have nothing to reuse.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tools import made_up_model as made_up
from tools import servers
from tools.processes import Gateway

MODELS = "ab"
NUMBERS = 300  # in a first message, of about seven tokens each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    if servers.find("llama-2026") is None:
        raise SystemExit("llama-2026 is not built: python -m tools.servers build llama-2026")
    print("| --slot-disk | prompt tokens | evaluated | of them first turns | loads | seconds |")
    print("|---|---|---|---|---|---|")
    for disk in (8 << 30, 0):
        with tempfile.TemporaryDirectory() as folder:
            print(measured(Path(folder), disk, options.clients, options.turns), flush=True)


def measured(folder: Path, disk: int, clients: int, turns: int) -> str:
    """A row of the table."""
    models = folder / "models"
    models.mkdir()
    for seed, name in enumerate(MODELS):
        made_up.write(models / f"{name}.gguf", seed=seed, n_ctx=8192)
    server = f"{servers.find('llama-2026')} -np 2 -c 16384 -t 1"
    flags = ["--models-dir", str(models), "--llama-server", server, "--models-max", "1"]
    flags += ["--swap-wait", "0.5", "--chat-template", "legacy", "--data", str(folder / "data")]
    gateway = Gateway([*flags, "--slot-disk", str(disk)], folder / "log")
    gateway.start()
    try:
        began = time.monotonic()
        with ThreadPoolExecutor(clients) as pool:
            seen = list(pool.map(lambda number: talk(gateway, number, turns), range(clients)))
        seconds = time.monotonic() - began
    finally:
        gateway.stop()
    prompt = sum(tokens for client in seen for tokens, _ in client)
    evaluated = sum(new for client in seen for _, new in client)
    first = sum(client[0][1] for client in seen)
    loads = gateway.log.count(": loaded after")
    return (
        f"| {disk} | {prompt} | {evaluated} ({evaluated / prompt:.1%}) | {first / prompt:.1%}"
        f" | {loads} | {seconds:.1f} |"
    )


def talk(gateway: Gateway, number: int, turns: int) -> list[tuple[int, int]]:
    """The tokens of each prompt of a client, and those of them that were evaluated."""
    chooses = random.Random(number)
    text = " ".join(str(chooses.randrange(10**6)) for _ in range(NUMBERS))
    messages = [{"role": "user", "content": text}]
    seen = []
    for _ in range(turns):
        body = {"model": MODELS[number % 2], "messages": messages, "max_tokens": 8}
        url = f"{gateway.url}/v1/chat/completions"
        answer = httpx.post(url, json=body, timeout=300.0).raise_for_status().json()
        usage = answer["usage"]
        prompt = usage["prompt_tokens"]
        seen.append((prompt, prompt - usage["prompt_tokens_details"]["cached_tokens"]))
        said = answer["choices"][0]["message"]["content"]
        messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "Go on."}]
        time.sleep(chooses.uniform(0.0, 1.5))  # the user reads
    return seen


if __name__ == "__main__":
    main()
