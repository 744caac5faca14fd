"""A naive gateway, as written in an afternoon with Flask's own server and requests, to compare
with.

It does what api_like_OAI.py, the script that this project replaces, does for a chat: join the
messages to a prompt, call /completion, and convert its lines to OpenAI's format.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import uuid
from collections.abc import Iterator
from typing import Any

import requests
from flask import Flask, Response, request

app = Flask(__name__)
NAMES = {"system": "\nASSISTANT's RULE: ", "user": "\nUSER: ", "assistant": "\nASSISTANT: "}


def prompt(messages: list[dict[str, str]]) -> str:
    return "".join(NAMES[m["role"]] + m["content"] for m in messages) + NAMES["assistant"]


def chunk(delta: dict[str, Any], reason: str | None) -> str:
    value = {
        "id": "chatcmpl-" + uuid.uuid4().hex,
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": "naive",
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
    }
    return f"data: {json.dumps(value)}\n\n"


@app.get("/v1/models")
def models() -> dict[str, Any]:
    return {"object": "list", "data": [{"id": "naive", "object": "model"}]}


@app.post("/v1/chat/completions")
def chat() -> Response | dict[str, Any]:
    fields = request.get_json()
    body = {
        "prompt": prompt(fields["messages"]),
        "n_predict": fields.get("max_tokens", 128),
        "temperature": fields.get("temperature", 0.8),
        "stream": bool(fields.get("stream")),
        "stop": ["</s>"],
    }
    url = app.config["upstream"] + "/completion"
    answer = requests.post(url, data=json.dumps(body), stream=body["stream"], timeout=600)
    if not body["stream"]:
        result = answer.json()
        message = {"role": "assistant", "content": result["content"]}
        return {
            "id": "chatcmpl-" + uuid.uuid4().hex,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": "naive",
            "choices": [{"index": 0, "message": message, "finish_reason": "length"}],
        }

    def generate() -> Iterator[str]:
        yield chunk({"role": "assistant"}, None)
        for line in answer.iter_lines():
            if line:
                event = json.loads(line.decode()[6:])
                yield chunk({"content": event["content"]}, None)
        yield chunk({}, "length")

    return Response(generate(), mimetype="text/event-stream")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.naive")
    parser.add_argument("upstream")
    parser.add_argument("port", type=int)
    args = parser.parse_args()
    app.config["upstream"] = args.upstream
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    app.run("127.0.0.1", args.port, threaded=True)
