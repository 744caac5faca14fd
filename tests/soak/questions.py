"""The requests of a soak: each is made of the seed and its number alone."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tests.contract import ears
from tests.fuzz.mutations import Mutator, broken, encoded

Read = Callable[[Any], ears.Heard]

TINY = "tiny"  # the model of made-up weights, on real servers
HOSTED = ("small", "smaller")  # made-up weights, of which one is loaded at a time
STUB = "stub"  # the stand-in for a server, whose tokens are stamps
WORDS = "the quick brown fox jumps over a lazy dog while rain falls on quiet hills".split()
SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"type": "string", "enum": ["red", "green", "blue"]},
        "size": {"type": "integer", "minimum": 1, "maximum": 99},
    },
    "required": ["colour", "size"],
    "additionalProperties": False,
}
TOOL = {"name": "paint", "description": "Paints a wall", "parameters": SCHEMA}
SYSTEM = "You are the helpful assistant of a small company. " + " ".join(WORDS * 12)
LONG = 300  # tokens of an answer that outlasts the lease of a gateway that is stopped
FORM = "multipart/form-data; boundary=soak"


class Dialect(NamedTuple):
    """A public API: `make(messages, tokens)` returns a body without model and stream; `limit` is
    the path in it of the most tokens; `whole` and `stream` read answers strictly."""

    name: str
    path: str
    endpoint: str
    make: Callable[[list[dict[str, str]], int], dict[str, Any]]
    whole: Read
    stream: Read


class Question(NamedTuple):
    """A request and how its client behaves.

    `hang_up`: seconds after which the client leaves, None: it stays. `slow`: bytes it reads a
    second, 0: as fast as they come. `cut`: the client sends so many bytes of the body and leaves,
    -1: all. `stamps`: tokens of the stub that the answer must have, 0: not counted. `shape`:
    "json" or "tool", if the answer must follow SCHEMA. `may_refuse`: 4xx answers are expected."""

    number: int
    kind: str
    dialect: Dialect | None
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    streamed: bool = False
    hang_up: float | None = None
    slow: int = 0
    cut: int = -1
    stamps: int = 0
    shape: str = ""
    may_refuse: bool = False

    @property
    def endpoint(self) -> str:
        return self.dialect.endpoint if self.dialect else "files.create"


def _chat(messages: list[dict[str, str]], tokens: int) -> dict[str, Any]:
    return {"messages": messages, "max_tokens": tokens}


def _anthropic(messages: list[dict[str, str]], tokens: int) -> dict[str, Any]:
    turns = [message for message in messages if message["role"] != "system"]
    system = [message["content"] for message in messages if message["role"] == "system"]
    body: dict[str, Any] = {"messages": turns, "max_tokens": tokens}
    return {**body, "system": system[0]} if system else body


CHAT = Dialect("OpenAI chat", "/v1/chat/completions", "openai.chat_completions",
               _chat, ears.chat_whole, ears.chat_stream)  # fmt: skip
ANTHROPIC = Dialect("Anthropic", "/v1/messages", "anthropic.messages",
                    _anthropic, ears.anthropic_whole, ears.anthropic_stream)  # fmt: skip
OLLAMA = Dialect("Ollama chat", "/api/chat", "ollama.chat_",
                 lambda turns, tokens: {"messages": turns, "options": {"num_predict": tokens}},
                 ears.ollama_chat_whole, ears.ollama_chat_stream)  # fmt: skip
DIALECTS = (
    CHAT,
    ANTHROPIC,
    OLLAMA,
    Dialect("Ollama generate", "/api/generate", "ollama.generate_",
            lambda turns, tokens: {"prompt": turns[-1]["content"],
                                   "options": {"num_predict": tokens}},
            ears.ollama_generate_whole, ears.ollama_generate_stream),
    Dialect("OpenAI responses", "/v1/responses", "responses.create",
            lambda turns, tokens: {"input": turns, "max_output_tokens": tokens},
            ears.responses_whole, ears.responses_stream),
    Dialect("OpenAI completions", "/v1/completions", "openai.completions",
            lambda turns, tokens: {"prompt": turns[-1]["content"], "max_tokens": tokens},
            ears.completions_whole, ears.completions_stream),
    Dialect("llama.cpp", "/completion", "native.completion",
            lambda turns, tokens: {"prompt": turns[-1]["content"], "n_predict": tokens},
            ears.native_whole, ears.native_stream),
)  # fmt: skip
LOOKS = ("/v1/models", "/v1/slots", "/v1/backends", "/health", "/livez", "/metrics", "/props",
         "/slots", "/api/tags", "/openapi.json", "/status", "/")  # fmt: skip
SHARES = {
    "chat": 50,
    "hang-up": 10,
    "malformed": 10,
    "swap": 3,
    "JSON": 6,
    "tools": 6,
    "slow reader": 3,
    "upload": 5,
    "broken upload": 3,
    "wrong key": 1,
    "look": 6,
}
CHAOS = {"chat": 70, "long": 10, "hang-up": 10, "wrong key": 1, "look": 6}  # before stubs alone


class Asker:
    """Makes requests of these shares. `keys` are those of the gateway."""

    def __init__(self, seed: int, keys: tuple[str, ...], shares: Mapping[str, int]) -> None:
        self._seed = seed
        self._shares = shares
        self._models = [TINY, STUB] if shares is SHARES else [STUB]
        self._keys = keys
        seeds = [_chat([{"role": "user", "content": "Hi"}], 8), {"tools": [TOOL], "format": SCHEMA}]
        self._mutator = Mutator(["messages", "tools", "stream", "options", "format"], seeds)

    def question(self, number: int) -> Question:
        rng = random.Random(f"{self._seed}/{number}")
        kind = rng.choices([*self._shares], [*self._shares.values()])[0]
        headers = {"Authorization": f"Bearer {rng.choice(self._keys)}"}
        if kind == "look":
            path = rng.choice(LOOKS)
            return Question(number, kind, None, "GET", path, headers, b"")
        if kind.endswith("upload"):
            return self._upload(rng, number, kind, headers)
        if kind in ("JSON", "tools"):
            return self._shaped(rng, number, kind, headers)
        return self._spoken(rng, number, kind, headers)

    def _spoken(
        self, rng: random.Random, number: int, kind: str, headers: dict[str, str]
    ) -> Question:
        dialect = rng.choice(DIALECTS)
        model = TINY if kind == "malformed" else rng.choice(self._models)
        tokens = LONG if kind == "long" else rng.randrange(4, 80)
        if kind == "swap":
            dialect, model, tokens = CHAT, rng.choice(HOSTED), 8
        if kind == "slow reader":
            dialect, model, tokens = rng.choice(DIALECTS[:3]), STUB, 2500
        streamed = kind == "slow reader" or rng.random() < 0.6
        conversation = rng.randrange(40)
        if rng.random() < 0.3:
            headers["X-Session-ID"] = f"session-{conversation}"
        messages = _messages(rng, conversation)
        body = {**dialect.make(messages, tokens), "model": model, "stream": streamed}
        if model == TINY and dialect.name == "llama.cpp":
            body["ignore_eos"] = True
        question = Question(number, kind, dialect, "POST", dialect.path, headers, b"", streamed)
        if kind == "malformed":
            data = encoded(self._mutator.mutated(rng, body)).encode("utf-8", "surrogatepass")
            data = broken(rng, data) if rng.random() < 0.4 else data
            # The mutated body may ask for a thousand tokens, or another form.
            return question._replace(body=data, may_refuse=True, hang_up=3.0)
        question = question._replace(body=json.dumps(body).encode())
        if kind == "hang-up":
            return question._replace(hang_up=rng.choice([0.001, 0.01, 0.05, 0.2, 1.0]))
        if kind == "wrong key":
            wrong = {**headers, "Authorization": f"Bearer wrong-{rng.randrange(10**9):012}"}
            return question._replace(headers=wrong, may_refuse=True)
        if model == STUB:
            question = question._replace(stamps=tokens)
        return question._replace(slow=60_000) if kind == "slow reader" else question

    def _shaped(
        self, rng: random.Random, number: int, kind: str, headers: dict[str, str]
    ) -> Question:
        dialect = rng.choice([CHAT, ANTHROPIC, OLLAMA] if kind == "tools" else [CHAT, OLLAMA])
        body = dialect.make(_messages(rng, rng.randrange(40)), 200)
        if kind == "tools" and dialect is ANTHROPIC:
            tool = {"name": TOOL["name"], "input_schema": SCHEMA}
            body |= {"tools": [tool], "tool_choice": {"type": "any"}}
        elif kind == "tools":
            body |= {"tools": [{"type": "function", "function": TOOL}]}
            if dialect is CHAT:
                body["tool_choice"] = "required"
        elif dialect is OLLAMA:
            body["format"] = SCHEMA
        else:
            schema = {"name": "wall", "schema": SCHEMA, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        streamed = rng.random() < 0.5
        # Ollama has no tool_choice: its answer may be a text.
        shape = "json" if kind == "JSON" else "" if dialect is OLLAMA else "tool"
        data = json.dumps({**body, "model": TINY, "stream": streamed}).encode()
        return Question(number, kind, dialect, "POST", dialect.path, headers, data, streamed,
                        shape=shape)  # fmt: skip

    def _upload(
        self, rng: random.Random, number: int, kind: str, headers: dict[str, str]
    ) -> Question:
        content = rng.randbytes(100) * rng.choice([1, 10, 1000, 20_000])
        data = b'--soak\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nassistants\r\n'
        data += b'--soak\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
        data += content.replace(b"--soak", b"") + b"\r\n--soak--\r\n"
        question = Question(number, kind, None, "POST", "/v1/files",
                            {**headers, "Content-Type": FORM}, data)  # fmt: skip
        if kind == "upload":
            return question
        if rng.random() < 0.5:
            return question._replace(cut=rng.randrange(len(data)), hang_up=0.0)
        return question._replace(body=broken(rng, data), may_refuse=True)


def _messages(rng: random.Random, conversation: int) -> list[dict[str, str]]:
    """The turns of one of a few conversations, up to one of them; many share a long beginning."""
    draw = random.Random(conversation)
    messages = [{"role": "system", "content": SYSTEM}] if conversation % 2 else []
    for _ in range(rng.randrange(1, 4)):
        messages.append({"role": "user", "content": " ".join(draw.choices(WORDS, k=12)) + "?"})
        messages.append({"role": "assistant", "content": " ".join(draw.choices(WORDS, k=20)) + "."})
    return messages[:-1]
