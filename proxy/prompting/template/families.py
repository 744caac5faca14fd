"""Facts about model families that no rendering tells: tokens, and texts that begin a turn.

`FAMILIES` covers the shipped templates (``templates/chat/NAME.jinja``). :func:`detect` recognises
the family of a server's template by the marks in its text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

import msgspec


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about a prompt format."""

    name: str
    stops: tuple[str, ...] = ()
    """End tokens of a turn; each is one token of the vocabulary and is sent to the backend."""
    turn_stop_texts: tuple[str, ...] = ()
    """Plain text that begins another turn, for formats whose only end token is the model's EOS. It
    spans several tokens, so the gateway matches it rather than the backend.
    """
    bos: str = ""
    """The begin token that the template writes, if any."""
    eos: str = ""
    reasoning: tuple[str, str] | None = None
    """The tags around reasoning; None if the family has none."""


_THINK = ("<think>", "</think>")
_LLAMA_2 = Family(name="llama-2", stops=("</s>",), bos="<s>", eos="</s>")
_LLAMA_3 = Family(
    name="llama-3",
    stops=("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"),
    bos="<|begin_of_text|>",
    eos="<|eot_id|>",
)
_CHATML = Family(name="chatml", stops=("<|im_end|>", "<|endoftext|>"), eos="<|im_end|>")
_QWEN = Family(
    name="qwen",
    stops=_CHATML.stops,
    eos="<|im_end|>",
    reasoning=_THINK,
)
_PLAIN = ("\nUser:", "\nUSER:")


_SHIPPED = (
    _CHATML,
    Family(name="hermes", stops=_CHATML.stops, eos="<|im_end|>"),
    _QWEN,
    _LLAMA_2,
    _LLAMA_3,
    Family(name="mistral", stops=("</s>",), bos="<s>", eos="</s>"),
    Family(
        name="vicuna", stops=("</s>",), bos="<s>", eos="</s>", turn_stop_texts=(" USER:", "\nUSER:")
    ),
    Family(
        name="alpaca",
        stops=("</s>",),
        bos="<s>",
        eos="</s>",
        turn_stop_texts=("\n### Instruction:",),
    ),
    Family(name="zephyr", stops=("</s>",), eos="</s>"),
    Family(name="gemma", stops=("<end_of_turn>", "<eos>"), bos="<bos>", eos="<eos>"),
    Family(name="phi-3", stops=("<|end|>", "<|endoftext|>"), bos="<s>", eos="<|endoftext|>"),
    Family(
        name="deepseek",
        stops=("<｜end▁of▁sentence｜>",),
        bos="<｜begin▁of▁sentence｜>",
        eos="<｜end▁of▁sentence｜>",
        reasoning=_THINK,
    ),
    Family(
        name="chatglm3",
        stops=("<|user|>", "<|observation|>"),
        eos="</s>",
    ),
    Family(
        name="glm-4",
        stops=("<|user|>", "<|observation|>", "<|endoftext|>"),
        eos="<|endoftext|>",
        reasoning=_THINK,
    ),
    Family(
        name="functionary",
        stops=_LLAMA_3.stops,
        bos=_LLAMA_3.bos,
        eos=_LLAMA_3.eos,
    ),
    Family(
        name="command-r",
        stops=("<|END_OF_TURN_TOKEN|>",),
        bos="<BOS_TOKEN>",
        eos="<|END_OF_TURN_TOKEN|>",
    ),
    # The models that PowerInfer publishes. TurboSparse is ChatML (its model card). ReluLLaMA,
    # ProSparse (which has the template of ReluLLaMA) and ReluFalcon have no published chat format:
    # plain turns.
    Family(name="turbosparse", stops=("<|im_end|>", "</s>"), bos="<s>", eos="</s>"),
    Family(name="bamboo", stops=("</s>",), bos="<s>", eos="</s>", turn_stop_texts=("\nUSER:",)),
    Family(name="relullama", stops=("</s>",), bos="<s>", eos="</s>", turn_stop_texts=_PLAIN),
    Family(
        name="relufalcon", stops=("<|endoftext|>",), eos="<|endoftext|>", turn_stop_texts=_PLAIN
    ),
)
FAMILIES: Mapping[str, Family] = {family.name: family for family in _SHIPPED}


def detect(source: str) -> Family | None:
    """The family of a server's template, for the tokens that its server may not tell; None if
    unknown. How its model writes reasoning and calls is derived, not known from the family."""
    for family, marks in _MARKS:
        if all(mark in source for mark in marks):
            return msgspec.structs.replace(family, reasoning=None)
    return None


# The more specific entries come first.
_MARKS: tuple[tuple[Family, tuple[str, ...]], ...] = (
    (FAMILIES["command-r"], ("<|START_OF_TURN_TOKEN|>",)),
    (FAMILIES["deepseek"], ("<｜User｜>",)),
    (_LLAMA_3, ("<|start_header_id|>",)),
    (_CHATML, ("<|im_start|>",)),
    (FAMILIES["glm-4"], ("[gMASK]<sop>",)),
    (FAMILIES["chatglm3"], ("[gMASK]sop",)),
    (_LLAMA_2, ("[INST]", "<<SYS>>")),
    (FAMILIES["mistral"], ("[INST]",)),
    (FAMILIES["gemma"], ("<start_of_turn>",)),
    (FAMILIES["phi-3"], ("<|user|>", "<|end|>")),
    (FAMILIES["zephyr"], ("<|user|>", "eos_token")),
    (FAMILIES["vicuna"], ("USER: ", "ASSISTANT:")),
    (FAMILIES["alpaca"], ("### Instruction:",)),
)


# Guesses the family of a model by its name, for a server that cannot tell its chat template.
#
# The rules are conservative: a name matches only if the chat models of that name have one format,
# and that is the shipped template's. Base models have none.

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
_COMPILED = tuple((re.compile(pattern), family) for pattern, family in _RULES)


@lru_cache(maxsize=256)
def family_of(name: str) -> str:
    """The name of a shipped family, "" if the model's name does not tell."""
    plain = re.sub(r"[\s_]+", "-", name[:MAX_NAME].lower())
    return next((family for pattern, family in _COMPILED if pattern.search(plain)), "")
