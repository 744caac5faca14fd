"""OpenAI's routes, with and without /v1."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request

from ..core.invalid import Invalid
from ..dialects import (
    anthropic,
    completions_both,
    fields,
    llamacpp_native,
    openai,
    openai_chat,
    openai_completions,
)
from ..dialects.anthropic import models as claude
from ..errors import ModelNotFound
from . import body, disconnect, glm
from .direct import Environ, Sent, post
from .exchange import complete, plain
from .observe import Record
from .services import Services

blueprint = Blueprint("openai", __name__)


@post(blueprint, "/v1/chat/completions", "/chat/completions")
def chat_completions(here: Services, environ: Environ) -> Sent:
    return complete(here, environ, openai_chat, "chatcmpl-")


@post(blueprint, "/v1/completions")
def completions(here: Services, environ: Environ) -> Sent:
    return complete(here, environ, openai_completions, "cmpl-")


@post(blueprint, "/completions")
def both_completions(here: Services, environ: Environ) -> Sent:
    return complete(here, environ, completions_both, "cmpl-")


@blueprint.post("/v1/chat/completions/input_tokens")
@blueprint.post("/chat/completions/input_tokens")
def input_tokens() -> Response:
    """llama-server's: how many tokens the prompt of a chat has."""

    def view(here: Services, record: Record) -> Any:
        asked = openai_chat.parse(body.read_json(request.environ, here.settings.max_body))
        with disconnect.watched(request.environ) as cancel:
            count = here.gateway.count(asked, cancel)
        return {"object": "response.input_tokens", "input_tokens": count}

    return plain(view)


@blueprint.get("/v1/models")
@blueprint.get("/models")
def models() -> Response:
    def view(here: Services, record: Record) -> Any:
        found = [_model(here, name) for name in here.gateway.registry.names()]
        return claude.listed(found) if _theirs() else {"object": "list", "data": found}

    return plain(view, anthropic.error if _theirs() else openai.error)


@blueprint.get("/v1/models/<path:name>")
@blueprint.get("/models/<path:name>")
def model(name: str) -> Response:
    def view(here: Services, record: Record) -> Any:
        if name not in here.gateway.registry.names():
            raise ModelNotFound(f"the model {name[:100]!r} is not served here", param="model")
        return _model(here, name)

    return plain(view, anthropic.error if _theirs() else openai.error)


def _theirs() -> bool:
    """Whether an Anthropic client asks."""
    return claude.VERSION in request.headers


def _model(here: Services, name: str) -> dict[str, Any]:
    pool, _ = here.gateway.registry.resolve(name)
    n_ctx = max((b.n_ctx for b in here.gateway.registry.pool(pool)), default=0)
    if _theirs():
        return claude.model(name, here.started, n_ctx)
    status = here.gateway.registry.status(pool)
    return {
        "id": name,
        "object": "model",
        "created": here.started,
        "owned_by": "slotproxy",
        "meta": {"n_ctx": n_ctx or None},
        **({"status": llamacpp_native.status(status)} if status else {}),
    }


@blueprint.post("/tokenize")
def tokenize() -> Response:
    """llama-server's: {content, add_special, with_pieces} -> {tokens}; and the GLM API's,
    {prompt}."""

    def view(here: Services, record: Record) -> Any:
        asked = body.read_json(request.environ, here.settings.max_body)
        if "prompt" in asked and "content" not in asked:
            return glm.tokenized(here, asked)
        gateway = here.gateway
        model, _ = gateway.registry.resolve(fields.text(asked, "model"))
        text, special = fields.text(asked, "content"), fields.flag(asked, "add_special")
        wanted = fields.flag(asked, "with_pieces")
        with disconnect.watched(request.environ) as cancel:
            if not wanted:
                return {"tokens": gateway.tokenize(model, text, special, cancel)}
            pieces = gateway.pieces(model, text, special, cancel)
        return {"tokens": [{"id": number, "piece": _piece(data)} for number, data in pieces]}

    return plain(view)


def _piece(data: bytes) -> str | list[int]:
    """A token as text, or its bytes where it is a part of a character."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)


@blueprint.post("/detokenize")
def detokenize() -> Response:
    """llama-server's: {tokens} -> {content}."""

    def view(here: Services, record: Record) -> Any:
        asked = body.read_json(request.environ, here.settings.max_body)
        tokens = fields.items(asked, "tokens")
        if not all(type(t) is int and 0 <= t < openai_completions.MAX_TOKEN_ID for t in tokens):
            raise Invalid("tokens", "must hold token ids only")
        gateway = here.gateway
        model, _ = gateway.registry.resolve(fields.text(asked, "model"))
        return {"content": gateway.detokenize(model, tokens) if tokens else ""}

    return plain(view)
