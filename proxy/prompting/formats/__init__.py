"""Tool-call formats of model families: streaming parsers, and shapes for grammars.

``FORMS[name].parser(tools)`` returns a parser for one reply. Text without calls passes unchanged; a
malformed call is returned as text.
"""

from __future__ import annotations

from collections.abc import Mapping

from . import generic
from .base import CallFormat, CallShape, Parser, Tools
from .chatglm import CHATGLM3, GLM4
from .command_r import COMMAND_R, COMMAND_R7B
from .deepseek import DEEPSEEK
from .functionary import FUNCTIONARY, FUNCTIONARY_V3
from .generic import GENERIC
from .hermes import HERMES, QWEN_XML
from .llama3 import LLAMA3
from .mistral import MISTRAL, MISTRAL_ARGS
from .reader import CallArguments, CallEnd, CallStart, Piece, TextPiece

__all__ = [
    "FORMS",
    "CallArguments",
    "CallEnd",
    "CallFormat",
    "CallShape",
    "CallStart",
    "Parser",
    "Piece",
    "TextPiece",
    "Tools",
    "generic",
]

FORMS: Mapping[str, CallFormat] = {
    form.name: form
    for form in (
        HERMES,
        QWEN_XML,
        LLAMA3,
        MISTRAL,
        MISTRAL_ARGS,
        CHATGLM3,
        GLM4,
        FUNCTIONARY,
        FUNCTIONARY_V3,
        DEEPSEEK,
        COMMAND_R,
        COMMAND_R7B,
        GENERIC,
    )
}
