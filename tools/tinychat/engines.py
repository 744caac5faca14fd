"""Ways to get a greedy answer: the PyTorch weights, a llama.cpp server, chatglm_cpp.

Each engine takes a conversation, cuts off its last answer and returns what the model says instead,
with whether it stopped by itself.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Protocol

from tools.tinychat.corpus import Conversation
from tools.tinychat.prompt import FORMS, chatglm_messages, question_and_answer
from tools.tinychat.tokenizer import EOS_ID, Tokenizer

LIMIT = 330  # tokens of an answer


class Engine(Protocol):
    """Anything that can be asked."""

    family: str

    def ask(self, conversation: Conversation) -> tuple[str, bool]:
        """The answer and whether the model ended it."""


class TorchEngine:
    """The weights of a checkpoint, as they are or rounded as in the shipped file."""

    def __init__(self, path: Path, vocab: Path, rounded: bool = False) -> None:
        from tools.tinychat import checkpoint

        self.model, self.made = checkpoint.load(path)
        if rounded:
            checkpoint.round_q8_0(self.model)
        self.family = self.model.config.family
        self.tokenizer = Tokenizer.load(vocab)
        marks = self.tokenizer.marks
        self.stops = {EOS_ID}
        if self.family == "chatglm3":
            self.stops |= {marks["<|user|>"], marks["<|observation|>"]}
        self.begin = [1] if self.family == "llama" else []

    def ask(self, conversation: Conversation) -> tuple[str, bool]:
        """Answer with the key-value cache, one token at a time."""
        prompt, _ = question_and_answer(FORMS[self.family](conversation))
        ids, _ = self.tokenizer.encode_segments(prompt)
        out = self.model.greedy(self.begin + ids, self.stops, LIMIT)
        stopped = not out or out[-1] != -1
        return self.tokenizer.decode(out), stopped


class ServerEngine:
    """A llama.cpp server of any age, asked through its own ``/completion``."""

    family = "llama"

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def ask(self, conversation: Conversation) -> tuple[str, bool]:
        """Render the prompt and let the server go on."""
        prompt, _ = question_and_answer(FORMS["llama"](conversation))
        return self.complete("".join(s.text for s in prompt))

    def complete(self, prompt: str) -> tuple[str, bool]:
        """Post a prompt; temperature 0 means greedy in every version."""
        body = {
            "prompt": prompt,
            "temperature": 0,
            "n_predict": LIMIT,
            "cache_prompt": False,
            "repeat_penalty": 1.0,
        }
        request = urllib.request.Request(
            f"{self.url}/completion",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        answer = self._post(request)
        stopped = answer.get("stopped_eos") or answer.get("stop_type") == "eos"
        return answer["content"], bool(stopped)

    @staticmethod
    def _post(request: urllib.request.Request) -> dict[str, Any]:
        """The answer; the server of 2023 says 404 while its slot is not yet free again."""
        for _ in range(50):
            try:
                with urllib.request.urlopen(request, timeout=120) as reply:
                    answer: dict[str, Any] = json.load(reply)
                    return answer
            except urllib.error.HTTPError as error:
                error.close()
                if error.code != 404:
                    raise
                time.sleep(0.1)
        raise RuntimeError("the server stays busy")


class ChatGLMEngine:
    """The library chatglm_cpp with a file of its own format."""

    family = "chatglm3"

    def __init__(self, path: Path) -> None:
        import chatglm_cpp

        self.library = chatglm_cpp
        self.pipeline = chatglm_cpp.Pipeline(str(path), max_length=2048)

    def ask(self, conversation: Conversation) -> tuple[str, bool]:
        """Let the library build the prompt of the messages."""
        return self.complete(chatglm_messages(conversation))

    def complete(self, messages: list[dict[str, str]]) -> tuple[str, bool]:
        """The text of an answer, the name of a called function on a line before its call."""
        config = self.pipeline.model.config
        ids: list[int] = []
        for part in self.pipeline.chat(
            [self.library.ChatMessage(**message) for message in messages],
            max_length=2048,
            max_new_tokens=LIMIT,
            max_context_length=1536,
            do_sample=False,
            stream=True,
        ):
            ids += part.token_ids
        stops = (config.eos_token_id, *config.extra_eos_token_ids)
        message = self.pipeline.tokenizer.decode_message(ids)
        text = message.content
        if message.tool_calls:
            text = f"{message.tool_calls[0].function.name}\n {text}"
        return text, bool(ids) and ids[-1] in stops
