"""Measures a grammar's cost per token: python -m benchmarks.sampling [--tokens 120] [--rounds 5]

Starts a llama-server of 2026 with SmolLM2 and lets it write objects of many properties: without a
grammar, with ours, and with the one the server makes of the same schema. They take turns, and the
processor time of the server is compared, because other processes disturb it less than the time that
passes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from proxy.gbnf import NEW, schema_to_grammar
from tools import servers, smollm2
from tools.processes import ModelServer, ask

TICK = 10.0
"""Milliseconds of a tick in /proc."""

PROMPT = (
    "<|im_start|>user\nWrite a JSON object describing a product with all fields.<|im_end|>\n"
    "<|im_start|>assistant\n"
)
KINDS: tuple[Mapping[str, Any], ...] = (
    {"type": "string"},
    {"type": "integer"},
    {"type": "boolean"},
    {"enum": ["red", "green", "blue"]},
    {"type": "string", "maxLength": 40},
    {"type": "array", "items": {"type": "string"}, "maxItems": 3},
    {"type": "number"},
    {"type": ["string", "null"]},
)


def keys(count: int, kinds: Sequence[Mapping[str, Any]], *, required: bool) -> dict[str, Any]:
    """The schema of an object with so many properties, of each kind in turn."""
    properties = {f"key_{at}": kinds[at % len(kinds)] for at in range(count)}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required else [],
        "additionalProperties": False,
    }


SCHEMAS = {
    "8 required": keys(8, KINDS, required=True),
    "128 required": keys(128, KINDS, required=True),
    "128 optional strings": keys(128, KINDS[:1], required=False),
}


def bodies(schema: Mapping[str, Any], tokens: int) -> dict[str, dict[str, Any]]:
    """The requests that are compared, by name."""
    common = {"prompt": PROMPT, "n_predict": tokens, "temperature": 0, "cache_prompt": True}
    return {
        "without": {**common, "ignore_eos": True},
        "ours": {**common, "grammar": schema_to_grammar(schema, NEW)},
        "the server's": {**common, "json_schema": schema},
    }


def _cost(server: ModelServer, body: Mapping[str, Any]) -> float:
    """Milliseconds of the server's processor time for each token."""
    _completion(server, {**body, "n_predict": 1})  # evaluates the prompt
    before = _processor(server.pid)
    tokens: int = _completion(server, body)["timings"]["predicted_n"]
    return (_processor(server.pid) - before) / tokens


def _completion(server: ModelServer, body: Mapping[str, Any]) -> Any:
    status, answer = ask(f"{server.url}/completion", body, 600)
    if status != 200:
        sys.exit(f"the server answered {status}: {answer[:300]!r}")
    return json.loads(answer)


def _processor(pid: int) -> float:
    """Milliseconds of processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return TICK * (int(fields[11]) + int(fields[12]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description=__doc__)
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(arguments)
    binary, model = servers.find("llama-2026"), smollm2.find()
    if binary is None or model is None:
        sys.exit("needs python -m tools.servers build llama-2026 and python -m tools.smollm2 fetch")
    with tempfile.TemporaryDirectory() as folder:
        server = ModelServer("llama-2026", binary, model, Path(folder) / "log", slots=1, ctx=8192)
        server.start()
        try:
            for name, schema in SCHEMAS.items():
                sent = bodies(schema, args.tokens)
                rounds = [
                    {way: _cost(server, body) for way, body in sent.items()}
                    for _ in range(args.rounds)
                ]
                costs = {way: median(results[way] for results in rounds) for way in sent}
                ratio = median(results["ours"] / results["the server's"] for results in rounds)
                shown = ", ".join(f"{way} {cost:.1f} ms" for way, cost in costs.items())
                print(f"{name}: {shown} a token; ours is {ratio:.2f} of the server's", flush=True)
        finally:
            server.kill()


if __name__ == "__main__":
    main()
