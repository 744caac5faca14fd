"""Tool-call formats: streaming parsers, and shapes for grammars.

A malformed call is text. Most formats are a shape derived from the model's template (``shaped``);
``SPECIAL`` lists the others, most of which read whole answers, with reasoning.
"""

from __future__ import annotations

from .base import CallFormat
from .named_calls import CHATGLM3, FUNCTIONARY_V3, GIGACHAT3, GLM4, KIMI_K2, LLAMA3
from .notation import GEMMA4, LFM2, MINIMAX_M3
from .parts import COHERE2_MOE, COMMAND_R7B, HARMONY, KIMI_K3, MUSE

SPECIAL: tuple[CallFormat, ...] = (
    HARMONY,
    MUSE,
    FUNCTIONARY_V3,
    KIMI_K2,
    KIMI_K3,
    COHERE2_MOE,
    COMMAND_R7B,
    LFM2,
    GIGACHAT3,
    MINIMAX_M3,
    GEMMA4,
    CHATGLM3,
    GLM4,
    LLAMA3,
)
"""Formats that cannot be derived from a template. A template has the first one that `matches`."""
