"""A llama-server of 2026 whose answers are a function of the prompt, for clients that need a model
which calls tools sensibly over several turns.

It is for clients, not for the driver: it keeps no cache, counts four characters as a token, and
supports just what the gateway's probe and completions use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from tests.http_fakes import FakeHandler, FakeServer

CONTEXT = 200_000  # tokens of a slot
SLOTS = 2
PIECE = 6  # characters of an event
TURN = "<|im_start|>assistant\n"  # after which models/tinychat.jinja lets the model answer


class ScriptedServer(FakeServer):
    """Answers on a port of 127.0.0.1. `script` maps a prompt, up to the beginning of the answer, to
    the whole answer; a prompt that ends with a part of its answer is continued."""

    def __init__(self, script: Callable[[str], str]) -> None:
        super().__init__(Handler, script=staticmethod(script))


class Handler(FakeHandler):
    script: ClassVar[Callable[[str], str]]

    def do_GET(self) -> None:
        slot = {"n_ctx": CONTEXT, "is_processing": False}
        known: dict[str, Any] = {
            "/health": {"status": "ok"},
            "/props": {
                "total_slots": SLOTS,
                "chat_template": "{{ messages }}",
                "default_generation_settings": {"n_ctx": CONTEXT},
                "modalities": {"vision": False, "audio": False},
                "model_path": "scripted.gguf",
                "bos_token": "<s>",
                "eos_token": "<|im_end|>",
                "build_info": "b1-scripted",
            },
            "/v1/models": {"object": "list", "data": [{"id": "scripted", "object": "model"}]},
            "/slots": [{"id": number, **slot} for number in range(SLOTS)],
        }
        self._page(known.get(self.path.partition("?")[0]))

    def do_POST(self) -> None:
        body = self.body()
        if self.path == "/tokenize":
            self.send({"tokens": [1] * _count(body["content"])})
        elif self.path == "/completion":
            self._complete(body)
        else:
            self._page(None)

    def _complete(self, body: dict[str, Any]) -> None:
        text, stop = _until(remainder(type(self).script, body["prompt"]), body.get("stop") or ())
        prompt, written = _count(body["prompt"]), _count(text)
        slot = {"id_slot": max(0, body.get("id_slot", 0))}
        end = {
            **slot,
            "content": "",
            "stop": True,
            "stop_type": "word" if stop else "eos",
            "stopping_word": stop,
            "tokens_predicted": written,
            "tokens_evaluated": prompt,
            "truncated": False,
            "timings": {"cache_n": 0, "prompt_n": prompt, "predicted_n": written},
        }
        if not body.get("stream"):
            self.send({**end, "content": text})
            return
        self.begin_stream()
        for start in range(0, len(text), PIECE):
            self.send_event({**slot, "content": text[start : start + PIECE], "stop": False})
        self.send_event(end)
        self.end_stream()

    def _page(self, value: Any) -> None:
        self.send(value, 404 if value is None else 200)


def remainder(script: Callable[[str], str], prompt: str) -> str:
    """The answer of the script to a prompt, without what the prompt has of it already."""
    before, _, begun = prompt.rpartition(TURN)
    whole = script(before)
    return whole[len(begun) :] if whole.startswith(begun) else whole


def _count(text: str) -> int:
    return len(text) // 4 + 1


def _until(text: str, stops: list[str] | tuple[str, ...]) -> tuple[str, str]:
    """The text before the first of these strings, and that string; "" for none."""
    matches = [(text.find(stop), stop) for stop in stops if stop in text]
    place, stop = min(matches, default=(len(text), ""))
    return text[:place], stop
