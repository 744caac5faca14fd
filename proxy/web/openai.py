"""Routes of OpenAI's API, with and without /v1."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request

from ..dialects import (
    anthropic,
    completions_both,
    llamacpp_native,
    llamacpp_tokens,
    openai,
    openai_chat,
    openai_completions,
)
from ..dialects.anthropic import models as claude
from ..errors import ModelNotFound
from . import body, disconnect, glm
from .fastpath import Environ, post
from .observability import Record
from .services import Services
from .spine import completion_view, json_view

blueprint = Blueprint("openai", __name__)


@post(blueprint, "/v1/chat/completions", "/chat/completions")
def chat_completions(services: Services, environ: Environ) -> Response:
    return completion_view(services, environ, openai_chat, "chatcmpl-")


@post(blueprint, "/v1/completions")
def completions(services: Services, environ: Environ) -> Response:
    return completion_view(services, environ, openai_completions, "cmpl-")


@post(blueprint, "/completions")
def both_completions(services: Services, environ: Environ) -> Response:
    return completion_view(services, environ, completions_both, "cmpl-")


@blueprint.post("/v1/chat/completions/input_tokens")
@blueprint.post("/chat/completions/input_tokens")
def input_tokens() -> Response:
    """Count the tokens of a chat's prompt, as llama-server does."""

    def view(services: Services, record: Record) -> Any:
        asked = openai_chat.parse(body.read_json(request.environ, services.settings.max_body))
        with disconnect.watched(request.environ) as cancel:
            count = services.gateway.count(asked, cancel)
        return {"object": "response.input_tokens", "input_tokens": count}

    return json_view(view)


@blueprint.get("/v1/models")
@blueprint.get("/models")
def models() -> Response:
    def view(services: Services, record: Record) -> Any:
        listed = [_model(services, name) for name in services.gateway.registry.names()]
        return claude.listed(listed) if _theirs() else {"object": "list", "data": listed}

    return json_view(view, anthropic.error if _theirs() else openai.error)


@blueprint.get("/v1/models/<path:name>")
@blueprint.get("/models/<path:name>")
def model(name: str) -> Response:
    def view(services: Services, record: Record) -> Any:
        if name not in services.gateway.registry.names():
            raise ModelNotFound(f"the model {name[:100]!r} does not exist", param="model")
        return _model(services, name)

    return json_view(view, anthropic.error if _theirs() else openai.error)


def _theirs() -> bool:
    """Whether the client is Anthropic's."""
    return claude.VERSION in request.headers


def _model(services: Services, name: str) -> dict[str, Any]:
    pool, _ = services.gateway.registry.resolve(name)
    n_ctx = max((b.n_ctx for b in services.gateway.registry.pool(pool)), default=0)
    if _theirs():
        return claude.model(name, services.started, n_ctx)
    status = services.gateway.registry.status(pool)
    return {
        "id": name,
        "object": "model",
        "created": services.started,
        "owned_by": "slotproxy",
        "meta": {"n_ctx": n_ctx or None},
        **({"status": llamacpp_native.status(status)} if status else {}),
    }


@blueprint.post("/tokenize")
def tokenize() -> Response:
    """llama-server's {content, add_special, with_pieces} to {tokens}; the GLM API's {prompt}."""

    def view(services: Services, record: Record) -> Any:
        asked = body.read_json(request.environ, services.settings.max_body)
        if "prompt" in asked and "content" not in asked:
            return glm.tokenized(services, asked)
        wanted = llamacpp_tokens.parse_tokenize(asked)
        gateway = services.gateway
        model, _ = gateway.registry.resolve(wanted.model)
        text = wanted.content, wanted.add_special
        with disconnect.watched(request.environ) as cancel:
            if not wanted.with_pieces:
                return {"tokens": gateway.tokenize(model, *text, cancel)}
            pieces = gateway.pieces(model, *text, cancel)
        return {"tokens": [{"id": number, "piece": _piece(data)} for number, data in pieces]}

    return json_view(view)


def _piece(data: bytes) -> str | list[int]:
    """Return a token as text, or as bytes if it is a part of a character."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)


@blueprint.post("/detokenize")
def detokenize() -> Response:
    """llama-server's {tokens} to {content}."""

    def view(services: Services, record: Record) -> Any:
        asked = body.read_json(request.environ, services.settings.max_body)
        wanted = llamacpp_tokens.parse_detokenize(asked)
        gateway = services.gateway
        model, _ = gateway.registry.resolve(wanted.model)
        return {"content": gateway.detokenize(model, wanted.tokens) if wanted.tokens else ""}

    return json_view(view)
