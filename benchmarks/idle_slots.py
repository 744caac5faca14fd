"""What a running batch costs other requests: their time to the first token without and beside one.

    python -m benchmarks.idle_slots

Requests come at random times to a modelled server (`batching_server`), in phases that alternate
between no batch and a running one; both have the same requests at the same times. The lines of the
batch share a long beginning. The time of the modelled server does not depend on other work of the
machine.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from tools.processes import Child, Gateway, held_port

LINES = 5000
BEGINNING = "Rule {}: answer in plain words, and never repeat the question. "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phases", type=int, default=6, help="of each kind")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a phase")
    parser.add_argument("--gap", type=float, default=1.5, help="mean seconds between two requests")
    parser.add_argument("--words", type=int, default=1000, help="of a request")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--rules", type=int, default=20, help="that all lines begin with")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), held_port()
        module = [sys.executable, "-m", "benchmarks.batching_server"]
        server = Child([*module, str(options.slots), str(port)], folder / "server.log")
        backend = f'url = "http://127.0.0.1:{port}/v1"\nkind = "openai"\nslots = {options.slots}'
        settings = folder / "slotproxy.toml"
        settings.write_text(f"[[backend]]\n{backend}\n")
        flags = ["--config", str(settings), "--data", name]
        gateway = Gateway(flags, folder / "gateway.log")
        try:
            server.launch()
            gateway.start()
            measure(gateway.url, options)
        finally:
            gateway.stop()
            server.kill()


def measure(url: str, options: argparse.Namespace) -> None:
    with httpx.Client(base_url=url, timeout=120) as api:
        file = upload(api, options.rules)
        times: dict[bool, list[float]] = {False: [], True: []}
        answered, seconds = 0, 0.0
        phase(api, 10.0, options, random.Random(-1))  # the gateway learns the server's speed
        for number in range(2 * options.phases):
            beside = bool(number % 2)
            if beside:
                batch = begin(api, file)
                began = time.monotonic()
            # The same requests at the same times, without and beside the batch.
            same = random.Random(number // 2)
            times[beside] += phase(api, options.seconds, options, same)
            if beside:
                found = api.get(f"/v1/batches/{batch}").json()
                answered += found["request_counts"]["completed"]
                seconds += time.monotonic() - began
                api.post(f"/v1/batches/{batch}/cancel")
                while api.get(f"/v1/batches/{batch}").json()["status"] != "cancelled":
                    time.sleep(0.1)
    print("| | requests | p50 ms | p90 ms | p99 ms | mean ms |\n|---|---|---|---|---|---|")
    for beside, name in ((False, "no batch"), (True, "beside a batch")):
        found = sorted(times[beside])
        shown = [1000 * found[int(share * len(found))] for share in (0.5, 0.9, 0.99)]
        mean = 1000 * sum(found) / len(found)
        print(f"| {name} | {len(found)} | {' | '.join(f'{one:.0f}' for one in (*shown, mean))} |")
    print(f"lines answered beside requests: {answered / seconds:.2f} a second")


def upload(api: httpx.Client, rules: int) -> str:
    beginning = "".join(BEGINNING.format(i) for i in range(rules))
    lines = (
        {
            "custom_id": str(i),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "messages": [
                    {"role": "system", "content": beginning},
                    {"role": "user", "content": f"What is the number {i} good for?"},
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
    while api.get(f"/v1/batches/{batch}").json()["request_counts"]["completed"] < 3:
        time.sleep(0.05)
    return batch


def phase(
    api: httpx.Client, seconds: float, options: argparse.Namespace, chooses: random.Random
) -> list[float]:
    """Seconds to the first token of the requests of a phase."""
    end = time.monotonic() + seconds
    with ThreadPoolExecutor(32) as pool:
        asked = []
        while time.monotonic() < end:
            words = " ".join(str(chooses.randrange(1000)) for _ in range(options.words))
            asked.append(pool.submit(first_token, api, f"Which of these is odd: {words}?"))
            time.sleep(chooses.expovariate(1 / options.gap))
        return [one.result() for one in asked]


def first_token(api: httpx.Client, text: str) -> float:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "max_tokens": 24}
    began, first = time.monotonic(), 0.0
    with api.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer:
        for line in answer.raise_for_status().iter_lines():
            if not first and '"content":"' in line and '"content":""' not in line:
                first = time.monotonic() - began
    return first


if __name__ == "__main__":
    main()
