"""The adapter to chatglm_cpp, on a fake with its signatures."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from proxy.backends.chatglm.engine import ChatGlmModel, Unknown
from proxy.backends.chatglm.protocol import ChatTurn, Generate, PromptMessage

TEXT = 100  # ids below this are characters
MASK, GMASK, SMASK, SOP, EOP, SYSTEM, USER, ASSISTANT, OBSERVATION = range(TEXT, TEXT + 9)
ROLES = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT, "observation": OBSERVATION}


class Tokenizer:
    """ChatGLM3's: two special tokens before every text, a role before every turn."""

    def encode(self, text: str, max_length: int) -> list[int]:
        return [GMASK, SOP, *(ord(one) % TEXT for one in text)][:max_length]

    def decode(self, ids: list[int]) -> str:
        if ids == [99]:
            return b"\xe4\xbd".decode()
        return "".join(chr(one) for one in ids)

    def apply_chat_template(self, messages: list[Any], max_length: int) -> list[int]:
        ids = [GMASK, SOP]
        for one in messages:
            ids += [ROLES[one.role], 10, *(ord(c) % TEXT for c in one.content)]
        return [*ids, ASSISTANT]


def library(calls: list[Any], kind: str = "CHATGLM3") -> ModuleType:
    """A fake chatglm_cpp; `calls` records the calls of its model."""
    module = ModuleType("chatglm_cpp")

    class Config:
        def __init__(self, **fields: Any) -> None:
            allowed = {"max_length", "max_new_tokens", "max_context_length", "do_sample", "top_k"}
            allowed |= {"top_p", "temperature", "repetition_penalty"}
            assert fields.keys() <= allowed
            self.__dict__ |= fields

    class Model:
        config = SimpleNamespace(
            max_length=64,
            vocab_size=128,
            eos_token_id=2,
            extra_eos_token_ids=[OBSERVATION, USER],
            model_type=SimpleNamespace(name=kind),
        )

        def generate_next_token(
            self, input_ids: Any, image: Any, gen_config: Any, n_past: int, n_ctx: int
        ) -> int:
            calls.append((list(input_ids), image, gen_config, n_past, n_ctx))
            return 7

    class Pipeline:
        def __init__(self, path: str, **options: int) -> None:
            calls.append(options)
            self.model = Model()
            self.tokenizer = Tokenizer()

    inner = SimpleNamespace(GenerationConfig=Config)
    module.__dict__.update(
        Pipeline=Pipeline, ChatMessage=SimpleNamespace, _C=inner, __version__="0.4.2"
    )
    return module


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []
    monkeypatch.setitem(sys.modules, "chatglm_cpp", library(calls))
    return calls


def wanted(**more: Any) -> Generate:
    values = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "repeat_penalty": 1.1} | more
    return Generate(id=1, prompt=PromptMessage(text="a"), max_tokens=5, **values)


def test_zero_temperature_is_greedy(calls: list[Any]) -> None:
    ChatGlmModel("m.bin").sampler(wanted(temperature=0.0))([1], 0, 1)
    assert calls[-1][2].do_sample is False


def test_shorter_context_is_passed_to_the_library(calls: list[Any]) -> None:
    assert ChatGlmModel("m.bin", 16).n_ctx == 16
    assert {"max_length": 16} in calls
    assert ChatGlmModel("m.bin", 1000).n_ctx == 64
    assert ChatGlmModel("m.bin").n_ctx == 64


def test_call_name_has_the_position_of_its_family(calls: list[Any]) -> None:
    model = ChatGlmModel("m.bin")
    turns = (
        ChatTurn("user", "u"),
        ChatTurn("assistant", "c", head="f"),
        ChatTurn("observation", "o"),
    )
    u, c, f, o = (ord(one) % TEXT for one in "ucfo")
    expected = [GMASK, SOP, USER, 10, u, ASSISTANT, f, 10, c, OBSERVATION, 10, o, ASSISTANT]
    assert model.encode(PromptMessage(turns=turns)) == expected


def test_texts_ids_and_special_tokens(calls: list[Any]) -> None:
    model = ChatGlmModel("m.bin")
    assert model.encode(PromptMessage(text="!")) == [GMASK, SOP, ord("!")]
    assert model.plain("!") == [ord("!")]
    assert model.encode(PromptMessage(ids=(1, 127))) == [1, 127]
    for ids in ((128,), (-1,)):
        with pytest.raises(Unknown):
            model.encode(PromptMessage(ids=ids))
    assert model.decode([ord("!"), ASSISTANT, 127, ord("?")]) == "!?"
    assert model.decode([99]) == "\N{REPLACEMENT CHARACTER}"
    assert [one for one in range(128) if model.ends(one)] == [2, USER, OBSERVATION]
    assert model.header == ASSISTANT


def test_unsupported_model_type_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "chatglm_cpp", library([], "CHATGLM4V"))
    with pytest.raises(RuntimeError, match="unsupported model type: CHATGLM4V"):
        ChatGlmModel("m.bin")
