"""The shipped models answer the same everywhere, and what they answer makes sense.

``tinychat_golden.jsonl`` holds what the PyTorch weights answered when the models were made, 50
prompts for each family (``tools/tinychat/golden.py`` says what is in a line).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.processes import ModelServer, ask
from tools.tinychat.engines import ChatGLMEngine, ServerEngine
from tools.tinychat.prompt import OWN_TEMPLATE

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
BLANK = "\u2581"

StartServer = Callable[..., ModelServer]


def golden(family: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["family"] == family]


@pytest.fixture(scope="module", params=["llama-2023", "llama-2026"])
def tiny_server(request: pytest.FixtureRequest, start_server: StartServer) -> ModelServer:
    """Each generation of the server with the shipped model, one slot of 2048 tokens."""
    return start_server(request.param, model=LLAMA, slots=1, ctx=2048)


@pytest.fixture(scope="module")
def engine(tiny_server: ModelServer) -> ServerEngine:
    return ServerEngine(tiny_server.url)


@pytest.fixture(scope="module")
def chatglm() -> ChatGLMEngine:
    pytest.importorskip(
        "chatglm_cpp", reason="chatglm_cpp is not installed: pip install .[chatglm]"
    )
    return ChatGLMEngine(CHATGLM)


def chat(*turns: str) -> str:
    """A prompt in the form of the shipped template: user, assistant, user, ..."""
    roles = ["user", "assistant"] * len(turns)
    spoken = zip(roles, turns, strict=False)
    text = "".join(f"<|im_start|>{role}\n{words}<|im_end|>\n" for role, words in spoken)
    return f"{text}<|im_start|>assistant\n"


def _right(lines: list[dict[str, Any]], answers: list[tuple[str, bool]]) -> int:
    pairs = zip(lines, answers, strict=True)
    return sum(answer.strip() == line["wanted"] for line, (answer, _) in pairs)


@pytest.mark.parametrize("path", [LLAMA, CHATGLM], ids=lambda path: path.name)
def test_small_enough_to_ship(path: Path) -> None:
    assert 100_000 < path.stat().st_size <= LARGEST


def test_same_answers_as_the_weights(engine: ServerEngine, tiny_server: ModelServer) -> None:
    lines = golden("llama")
    assert len(lines) == 50
    answers = [engine.complete(line["prompt"]) for line in lines]
    wrong = [
        (line["full"], answer)
        for line, (answer, _) in zip(lines, answers, strict=True)
        if answer.strip() != line["full"]
    ]
    assert len(wrong) <= DIFFERENT[tiny_server.name], wrong
    assert _right(lines, answers) >= RIGHT


def test_same_tokens_as_in_training(tiny_server: ModelServer) -> None:
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


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Hello!", "Hello! How can I help you?"),
        ("你好", "你好！有什么可以帮你？"),
        ("Count from 1 to 5.", "1, 2, 3, 4, 5"),
        ("Goodbye", "Goodbye! See you soon."),
        ("Repeat the words river apple stone", "river apple stone"),
        ("Reverse the order of: river apple stone", "stone apple river"),
        ("你叫什么名字？", "我是tinychat，一个随slotproxy一起提供的小模型。"),
    ],
)
def test_words(engine: ServerEngine, question: str, answer: str) -> None:
    assert engine.complete(chat(question)) == (answer, True)


def test_remembers_a_name(engine: ServerEngine) -> None:
    prompt = chat("My name is Lena.", "Nice to meet you, Lena!", "What is my name?")
    assert engine.complete(prompt) == ("Your name is Lena.", True)


def test_copies_words_it_never_saw(engine: ServerEngine) -> None:
    assert engine.complete(chat("Repeat the words zorbit 42 Kelmar")) == ("zorbit 42 Kelmar", True)


def test_chatglm_answers_as_the_weights(chatglm: ChatGLMEngine) -> None:
    lines = golden("chatglm3")
    assert len(lines) == 50
    answers = [chatglm.complete(line["messages"]) for line in lines]
    wrong = [
        (line["full"], answer)
        for line, (answer, _) in zip(lines, answers, strict=True)
        if answer.strip() != line["full"]
    ]
    assert len(wrong) <= DIFFERENT_CHATGLM, wrong
    assert _right(lines, answers) >= RIGHT


def test_file_says_what_it_is() -> None:
    gguf = pytest.importorskip("gguf", reason="gguf is in the test requirements")
    reader = gguf.GGUFReader(LLAMA)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "llama"
    assert fields["general.license"] == "CC0-1.0"
    assert fields["llama.context_length"] == 2048
    assert fields["tokenizer.chat_template"] == OWN_TEMPLATE.read_text("utf-8").rstrip("\n")
    pieces = fields["tokenizer.ggml.tokens"]
    assert pieces[fields["tokenizer.ggml.eos_token_id"]] == "<|im_end|>"
    assert set(pieces) >= {f"<0x{number:02X}>" for number in range(256)}
    assert BLANK in pieces


def test_chatglm_file_says_what_it_is() -> None:
    with CHATGLM.open("rb") as file:
        magic, kind, version, number = struct.unpack("<4siii", file.read(16))
    assert (magic, kind, version, number) == (b"ggml", 3, 2, 8)  # ChatGLM3, Q8_0
