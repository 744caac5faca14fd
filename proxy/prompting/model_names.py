"""Guesses the family of a model by its name, for a server that cannot tell its chat template.

The rules are conservative: a name matches only if the chat models of that name have one format, and
that is the shipped template's. Base models have none.
"""

from __future__ import annotations

import re
from functools import lru_cache

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
