"""llama.cpp's POST /tokenize and POST /detokenize. The source is the README of its server."""

from __future__ import annotations

from msgspec import Struct

from ..errors import InvalidParameter
from .fields import Body, flag, items, text
from .openai_completions import MAX_TOKEN_ID


class TokenizeParams(Struct, frozen=True):
    content: str
    model: str
    add_special: bool
    with_pieces: bool


class DetokenizeParams(Struct, frozen=True):
    tokens: list[int]
    model: str


def parse_tokenize(body: Body) -> TokenizeParams:
    """Raises InvalidParameter."""
    return TokenizeParams(
        text(body, "content"),
        text(body, "model"),
        flag(body, "add_special"),
        flag(body, "with_pieces"),
    )


def parse_detokenize(body: Body) -> DetokenizeParams:
    """Raises InvalidParameter."""
    tokens = items(body, "tokens")
    if not all(type(token) is int and 0 <= token < MAX_TOKEN_ID for token in tokens):
        raise InvalidParameter("tokens", "must contain token ids only")
    return DetokenizeParams(tokens, text(body, "model"))
