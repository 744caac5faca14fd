"""Facts about model families that no rendering tells: tokens, and texts that begin a turn.

`FAMILIES` covers the shipped templates (``templates/chat/NAME.jinja``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec


class Family(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    stops: tuple[str, ...] = ()
    """End tokens of a turn; each is one token of the vocabulary and is sent to the backend."""
    turn_stop_texts: tuple[str, ...] = ()
    """Plain text that begins another turn, for formats whose only end token is the model's EOS. The
    gateway matches it."""
    bos: str = ""
    eos: str = ""
    reasoning: tuple[str, str] | None = None


def _family(name: str, *stops: str, **facts: Any) -> Family:
    return Family(name=name, stops=stops, **facts)


_THINK = ("<think>", "</think>")
_LLAMA: dict[str, Any] = {"bos": "<s>", "eos": "</s>"}
_LLAMA_3_STOPS = ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")
_LLAMA_3: dict[str, Any] = {"bos": "<|begin_of_text|>", "eos": "<|eot_id|>"}
_CHATML_STOPS = ("<|im_end|>", "<|endoftext|>")
_DEEPSEEK_END = "<｜end▁of▁sentence｜>"
_GLM_STOPS = ("<|user|>", "<|observation|>")
_COMMAND_R_END = "<|END_OF_TURN_TOKEN|>"
_PLAIN = ("\nUser:", "\nUSER:")

_SHIPPED = (
    _family("chatml", *_CHATML_STOPS, eos="<|im_end|>"),
    _family("hermes", *_CHATML_STOPS, eos="<|im_end|>"),
    _family("qwen", *_CHATML_STOPS, eos="<|im_end|>", reasoning=_THINK),
    _family("llama-2", "</s>", **_LLAMA),
    _family("llama-3", *_LLAMA_3_STOPS, **_LLAMA_3),
    _family("mistral", "</s>", **_LLAMA),
    _family("vicuna", "</s>", **_LLAMA, turn_stop_texts=(" USER:", "\nUSER:")),
    _family("alpaca", "</s>", **_LLAMA, turn_stop_texts=("\n### Instruction:",)),
    _family("zephyr", "</s>", eos="</s>"),
    _family("gemma", "<end_of_turn>", "<eos>", bos="<bos>", eos="<eos>"),
    _family("phi-3", "<|end|>", "<|endoftext|>", bos="<s>", eos="<|endoftext|>"),
    _family(
        "deepseek",
        _DEEPSEEK_END,
        bos="<｜begin▁of▁sentence｜>",
        eos=_DEEPSEEK_END,
        reasoning=_THINK,
    ),
    _family("chatglm3", *_GLM_STOPS, eos="</s>"),
    _family("glm-4", *_GLM_STOPS, "<|endoftext|>", eos="<|endoftext|>", reasoning=_THINK),
    _family("functionary", *_LLAMA_3_STOPS, **_LLAMA_3),
    _family("command-r", _COMMAND_R_END, bos="<BOS_TOKEN>", eos=_COMMAND_R_END),
    # The models that PowerInfer publishes. TurboSparse is ChatML (its model card). ReluLLaMA,
    # ProSparse (which has the template of ReluLLaMA) and ReluFalcon have no published chat format:
    # plain turns.
    _family("turbosparse", "<|im_end|>", "</s>", **_LLAMA),
    _family("bamboo", "</s>", **_LLAMA, turn_stop_texts=("\nUSER:",)),
    _family("relullama", "</s>", **_LLAMA, turn_stop_texts=_PLAIN),
    _family("relufalcon", "<|endoftext|>", eos="<|endoftext|>", turn_stop_texts=_PLAIN),
)
FAMILIES: Mapping[str, Family] = {family.name: family for family in _SHIPPED}


def detect(source: str) -> Family | None:
    """The family of a server's template, for the tokens that its server may not tell; None if
    unknown. How its model writes reasoning and calls is derived, not known from the family."""
    for name, marks in _MARKS:
        if all(mark in source for mark in marks):
            return msgspec.structs.replace(FAMILIES[name], reasoning=None)
    return None


# The more specific entries come first.
_MARKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("command-r", ("<|START_OF_TURN_TOKEN|>",)),
    ("deepseek", ("<｜User｜>",)),
    ("llama-3", ("<|start_header_id|>",)),
    ("chatml", ("<|im_start|>",)),
    ("glm-4", ("[gMASK]<sop>",)),
    ("chatglm3", ("[gMASK]sop",)),
    ("llama-2", ("[INST]", "<<SYS>>")),
    ("mistral", ("[INST]",)),
    ("gemma", ("<start_of_turn>",)),
    ("phi-3", ("<|user|>", "<|end|>")),
    ("zephyr", ("<|user|>", "eos_token")),
    ("vicuna", ("USER: ", "ASSISTANT:")),
    ("alpaca", ("### Instruction:",)),
)


# Guesses the family of a model by its name, for a server that cannot tell its chat template. A name
# matches only if the chat models of that name have one format, which is the shipped template's.

MAX_NAME = 256  # characters
# The first match counts: names of derived models contain that of their origin.
_RULES: tuple[tuple[str, str], ...] = (
    # PowerInfer's models are base models, and their templates are made for them.
    (r"\bturbo-?sparse", "turbosparse"),
    (r"\bbamboo\b", "bamboo"),
    (r"\bpro-?sparse", "relullama"),
    (r"\brelu-?llama", "relullama"),
    (r"\brelu-?falcon", "relufalcon"),
    (r"\b(base|pretrain(ed)?|embed(ding)?s?|rerank(er)?|reward)\b", ""),
    (r"\bdeepseek-(v2\.5|v3|r1)\b", "deepseek"),
    (r"\bhermes-(2-pro|3)\b", "hermes"),
    (r"\b(openhermes|hermes-2|dolphin-2|smollm2?)\b", "chatml"),
    (r"\bnemotron\b|\bdistill\b|\bfunctionary\b", ""),
    (r"\bqwen\d*(\.\d+)?\b", "qwen"),
    (r"\bchatglm-?3\b", "chatglm3"),
    (r"\bglm-?4-(\d+b(-chat|-0414)?|chat)\b", "glm-4"),
    (r"\bcommand-r(-plus)?(-v\d+|-\d+-\d+)*(?![\w]|-\d+b)|\bcommand-r-35b\b", "command-r"),
    (r"\bllama-?3(\.\d)?\b.*\binstruct\b", "llama-3"),
    (r"\bllama-?2\b.*\bchat\b|\bcodellama\b.*\binstruct\b", "llama-2"),
    (r"\bmi[sx]tral-(8x)?\d+b-instruct\b", "mistral"),
    (r"\bvicuna\b", "vicuna"),
    (r"\balpaca\b", "alpaca"),
    (r"^zephyr\b|\btinyllama\b.*\bchat-v1\b", "zephyr"),
    (r"\b(code)?gemma-?(1\.1|2|3)?(-\d+b)?-it\b", "gemma"),
    (r"\bphi-?3(\.5)?\b", "phi-3"),
)


@lru_cache(maxsize=256)
def family_of(name: str) -> str:
    """The name of a shipped family, "" if the model's name does not tell."""
    plain = re.sub(r"[\s_]+", "-", name[:MAX_NAME].lower())
    return next((family for pattern, family in _RULES if re.search(pattern, plain)), "")
