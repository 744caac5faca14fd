"""The routes of the GLM HTTP API, and POST / of chatglm.cpp's langchain server."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, request

from ..dialects import glm
from ..errors import CharacterCut
from . import disconnect
from .direct import Environ, Sent, post
from .exchange import complete
from .services import Services

blueprint = Blueprint("glm", __name__)


MOST_PIECES = 8192  # each new one is a question to the backend


@post(blueprint, "/chat")
def chat(here: Services, environ: Environ) -> Sent:
    return complete(here, environ, glm.chat, "")


@post(blueprint, "/chat-stream")
def chat_stream(here: Services, environ: Environ) -> Sent:
    return complete(here, environ, glm.chat_stream, "")


@post(blueprint, "/")
def langchain(here: Services, environ: Environ) -> Sent:
    return complete(here, environ, glm.langchain, "")


def tokenized(here: Services, asked: dict[str, Any]) -> dict[str, Any]:
    """The answer of /tokenize in the GLM form: {prompt} to ids and the text of each."""
    wanted = glm.parse_tokenize(asked)
    gateway = here.gateway
    model, _ = gateway.registry.resolve(wanted.model)
    most = min(wanted.max_length, MOST_PIECES)
    with disconnect.watched(request.environ) as cancel:
        tokens = gateway.tokenize(model, wanted.prompt, cancel=cancel, most=most)[:most]
    texts = {token: _piece(here, model, token) for token in dict.fromkeys(tokens)}
    return glm.tokenized([(token, texts[token]) for token in tokens])


def _piece(here: Services, model: str, token: int) -> str:
    """A token's text. One that is a part of a character has none."""
    try:
        return here.gateway.detokenize(model, [token])
    except CharacterCut:
        return "\ufffd"
