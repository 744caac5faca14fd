"""Bodies of llama.cpp's POST /tokenize, /detokenize, /slots/{id} and /models/load. The source is
the README of its server."""

from __future__ import annotations

import re

from msgspec import Struct

from ...errors import InvalidParameter
from ..fields import Body, flag, integer, items, model_name, text
from ..openai.answer import MAX_TOKENS
from ..openai.completions import MAX_TOKEN_ID

FILENAME = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$"


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
        model_name(body),
        flag(body, "add_special"),
        flag(body, "with_pieces"),
    )


def parse_detokenize(body: Body) -> DetokenizeParams:
    """Raises InvalidParameter."""
    tokens = items(body, "tokens")
    if not all(type(token) is int and 0 <= token < MAX_TOKEN_ID for token in tokens):
        raise InvalidParameter("tokens", "must contain token ids only")
    return DetokenizeParams(tokens, model_name(body))


def parse_model(body: Body) -> str:
    """The model to load or unload. Raises InvalidParameter."""
    name = text(body, "model")
    if not name:
        raise InvalidParameter("model", "must name a model")
    return name


def parse_filename(body: Body) -> str:
    """The file that a slot is saved to or restored from. Raises InvalidParameter."""
    name = text(body, "filename")
    if not re.fullmatch(FILENAME, name):
        raise InvalidParameter("filename", "must be a plain file name")
    return name


class PromptToTokenize(Struct, frozen=True):
    """The body of /tokenize in the form of GLM's servers."""

    model: str
    prompt: str
    max_length: int


def parse_tokenize_prompt(body: Body) -> PromptToTokenize:
    """Raises InvalidParameter naming the field."""
    limit = integer(body, "max_length", 1, MAX_TOKENS)
    return PromptToTokenize(model_name(body), text(body, "prompt"), limit or MAX_TOKENS)
