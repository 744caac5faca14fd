"""The shipped models answer the same everywhere, and what they answer makes sense.

``tinychat_golden.jsonl`` holds what the PyTorch weights answered when the models were made, 50
prompts for each family. A line has ``family``; ``skill``; ``prompt`` (llama) or ``messages``
(chatglm3); ``ids`` of short llama prompts; ``wanted``, the right answer; ``full``, the answer of
the 32-bit weights; ``rounded``, that of the weights rounded as in the shipped file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.processes import ModelServer, ask

pytestmark = pytest.mark.slow  # it changes when the models are made anew

MODELS = Path(__file__).resolve().parents[2] / "models"
LLAMA = MODELS / "tinychat-llama.gguf"
CHATGLM = MODELS / "tinychat-chatglm3.bin"
GOLDEN = Path(__file__).with_name("tinychat_golden.jsonl")
LARGEST = 8_000_000  # bytes
# Answers of 50 that may differ from those of the 32-bit weights: as many as were counted when the
# files were made, and a few for machines that round in another way.
DIFFERENT = {"llama-2023": 3, "llama-2026": 2}
DIFFERENT_CHATGLM = 4
RIGHT = 42  # of the 50 answers that must be right to the letter
LIMIT = 330  # tokens of an answer

StartServer = Callable[..., ModelServer]
# A greedy answer to a prompt (llama) or to messages (ChatGLM), and whether the model ended it.
Complete = Callable[[Any], tuple[str, bool]]


def golden(family: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["family"] == family]


@pytest.fixture(scope="module", params=["llama-2023", "llama-2026"])
def tiny_server(request: pytest.FixtureRequest, start_server: StartServer) -> ModelServer:
    """Each generation of the server with the shipped model, one slot of 2048 tokens."""
    return start_server(request.param, model=LLAMA, slots=1, ctx=2048)


@pytest.fixture(scope="module")
def complete(tiny_server: ModelServer) -> Complete:
    fields = {"temperature": 0, "n_predict": LIMIT, "cache_prompt": False, "repeat_penalty": 1.0}

    def complete(prompt: str) -> tuple[str, bool]:
        url, end = f"{tiny_server.url}/completion", time.monotonic() + 30
        status, content = ask(url, {"prompt": prompt, **fields}, 100)
        # The server of 2023 says so while its slot is not yet free again.
        while status == 404 and time.monotonic() < end:
            time.sleep(0.05)
            status, content = ask(url, {"prompt": prompt, **fields}, 100)
        assert status == 200, content
        answer = json.loads(content)
        ended = answer.get("stopped_eos") or answer.get("stop_type") == "eos"
        return answer["content"], bool(ended)

    return complete


@pytest.fixture(scope="module")
def chatglm() -> Complete:
    library = pytest.importorskip(
        "chatglm_cpp", reason="chatglm_cpp is not installed: pip install .[chatglm]"
    )
    pipeline = library.Pipeline(str(CHATGLM), max_length=2048)
    config = pipeline.model.config
    stops = (config.eos_token_id, *config.extra_eos_token_ids)
    lengths = {"max_length": 2048, "max_new_tokens": LIMIT, "max_context_length": 1536}

    def complete(messages: list[dict[str, str]]) -> tuple[str, bool]:
        said = [library.ChatMessage(**message) for message in messages]
        parts = pipeline.chat(said, **lengths, do_sample=False, stream=True)
        ids = [token for part in parts for token in part.token_ids]
        message = pipeline.tokenizer.decode_message(ids)
        text = message.content
        if message.tool_calls:
            text = f"{message.tool_calls[0].function.name}\n {text}"
        return text, bool(ids) and ids[-1] in stops

    return complete


def _right(lines: list[dict[str, Any]], answers: list[tuple[str, bool]]) -> int:
    pairs = zip(lines, answers, strict=True)
    return sum(answer.strip() == line["wanted"] for line, (answer, _) in pairs)


@pytest.mark.parametrize("path", [LLAMA, CHATGLM], ids=lambda path: path.name)
def test_model_file_is_small_enough_to_ship(path: Path) -> None:
    assert 100_000 < path.stat().st_size <= LARGEST


def test_exported_model_answers_like_its_weights(
    complete: Complete, tiny_server: ModelServer
) -> None:
    lines = golden("llama")
    assert len(lines) == 50
    answers = [complete(line["prompt"]) for line in lines]
    wrong = [
        (line["full"], answer)
        for line, (answer, _) in zip(lines, answers, strict=True)
        if answer.strip() != line["full"]
    ]
    assert len(wrong) <= DIFFERENT[tiny_server.name], wrong
    assert _right(lines, answers) >= RIGHT


def test_exported_model_tokenizes_as_in_training(tiny_server: ModelServer) -> None:
    """The old server puts a blank before the text, which training has seen as well."""
    lines = [line for line in golden("llama") if "ids" in line]
    assert len(lines) > 20
    model = json.loads(ask(f"{tiny_server.url}/tokenize", {"content": " "})[1])["tokens"]
    for line in lines:
        body = {"content": line["prompt"], "parse_special": True}
        tokens = json.loads(ask(f"{tiny_server.url}/tokenize", body)[1])["tokens"]
        if tiny_server.name == "llama-2023" and len(tokens) > len(line["ids"]):
            tokens = tokens[1:]
        assert tokens == line["ids"]
    assert model  # a blank is a piece of its own


def test_chatglm_model_answers_like_its_weights(chatglm: Complete) -> None:
    lines = golden("chatglm3")
    assert len(lines) == 50
    answers = [chatglm(line["messages"]) for line in lines]
    wrong = [
        (line["full"], answer)
        for line, (answer, _) in zip(lines, answers, strict=True)
        if answer.strip() != line["full"]
    ]
    assert len(wrong) <= DIFFERENT_CHATGLM, wrong
    assert _right(lines, answers) >= RIGHT
