"""Routes of OpenAI's API, with and without /v1."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Response, request

from ...errors import CharacterCut, GatewayError
from ...web import model_tables
from ...web.admitted import counted
from ...web.body import parsed
from ...web.fastpath import BodyAndHeaders, Environ, post
from ...web.model_tables import metadata, read_request
from ...web.observability import Record
from ...web.permissions import check_model, local_model, of_caller, visible
from ...web.routes import SSE, Api
from ...web.services import Services
from ...web.spine import completion_view, json_route, sent_json, v1_route
from .. import anthropic
from .. import schema_fields as doc
from ..anthropic.answer import VERSION, model_object, models_list
from ..llamacpp import native as llamacpp_native
from ..llamacpp.native import DETOKENIZE, GLM_TOKENIZE, TOKENIZE
from ..schema_fields import read_all
from . import answer as openai
from . import chat as openai_chat
from . import completions as openai_completions

MOST_PIECES = 8192  # each distinct token is a request to the backend

blueprint = Api(
    "openai",
    __name__,
    group="chat",
    tag="OpenAI",
    ledger="openai",
    schemas={
        "ChatCompletionRequest": doc.body("messages", **openai_chat.FIELDS),
        "CompletionRequest": doc.body("prompt", **openai_completions.FIELDS),
        "CompletionRequestBoth": doc.body("prompt", **openai_completions.BOTH_FIELDS),
    },
)


@post(
    blueprint,
    "/v1/chat/completions",
    "/chat/completions",
    body="ChatCompletionRequest",
    streams=SSE,
)
def chat_completions(services: Services, environ: Environ) -> Response | BodyAndHeaders:
    """A chat, streamed or whole."""
    return completion_view(services, environ, openai_chat, "chatcmpl-")


@post(
    blueprint,
    "/v1/completions",
    body="CompletionRequest",
    streams=SSE,
    group="completions",
)
def completions(services: Services, environ: Environ) -> Response | BodyAndHeaders:
    """A text completion, streamed or whole."""
    return completion_view(services, environ, openai_completions, "cmpl-")


@post(
    blueprint,
    "/completions",
    body="CompletionRequestBoth",
    streams=SSE,
    group="completions",
    tag="llama.cpp",
)
def both_completions(services: Services, environ: Environ) -> Response | BodyAndHeaders:
    """A text completion with OpenAI's and llama.cpp's fields."""
    return completion_view(services, environ, openai_completions.both, "cmpl-")


@v1_route(blueprint, "POST", "/chat/completions/input_tokens", body="ChatCompletionRequest")
def input_tokens(services: Services, record: Record) -> Any:
    """How many tokens the prompt of a chat has."""
    raw = read_request(services, record, request.environ)
    chat = parsed(partial(openai_chat.parse, raw), request.environ, raw)
    chat = of_caller(services, request.environ, chat)
    with counted(services, record, chat.model) as (cancel, may):
        count = services.gateway.count(chat, cancel, may=may)
    return {"object": "response.input_tokens", "input_tokens": count}


def _theirs() -> bool:
    return VERSION in request.headers


def _error(fault: GatewayError) -> dict[str, Any]:
    return anthropic.error(fault) if _theirs() else openai.error(fault)


@v1_route(blueprint, "GET", "/models", shape=_error, group="")
def models(services: Services, record: Record) -> Any:
    """The models served; in Anthropic's form for its clients."""
    names = visible(services, request.environ, services.gateway.registry.names())
    listed = [_model(services, name) for name in names]
    if _theirs():
        return models_list(listed)
    if (local := local_model(services, request.environ)) and local not in names:
        listed.append(_local_model(services, local))
    return {"object": "list", "data": listed}


@v1_route(blueprint, "GET", "/models/<path:name>", shape=_error, group="")
def model(services: Services, record: Record, name: str) -> Any:
    """One model."""
    if name not in services.gateway.registry.names():
        if not _theirs() and name == local_model(services, request.environ):
            return _local_model(services, name)
        raise services.gateway.registry.not_found(name)
    check_model(services, request.environ, name)
    return _model(services, name)


def _object(services: Services, name: str, meta: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": services.started,
        "owned_by": "slotproxy",
        "meta": meta,
    }


def _local_model(services: Services, name: str) -> dict[str, Any]:
    modalities = {"input_modalities": ["text"], "output_modalities": ["embeddings"]}
    return {**_object(services, name, {"n_ctx": None}), "architecture": modalities}


def _model(services: Services, name: str) -> dict[str, Any]:
    registry = services.gateway.registry
    model, _ = registry.resolve(name)
    pool = registry.pool(model)
    n_ctx = max((backend.n_ctx for backend in pool), default=0)
    if _theirs():
        return model_object(name, services.started, n_ctx)
    described = _object(services, name, {"n_ctx": n_ctx or None})
    if status := registry.status(model):  # as a router's list says of a model loaded on demand
        caps = [backend.caps for backend in pool if backend.caps is not None]
        described |= {
            "status": llamacpp_native.status(status),
            "aliases": sorted({alias for backend in pool for alias in backend.aliases}),
            "architecture": llamacpp_native.architecture(
                vision=services.gateway.accepts_images(model), audio=any(c.audio for c in caps)
            ),
        }
    if name not in registry.routes and (hosted := services.host.find(model)):
        described["meta"] |= metadata(hosted)
        described |= model_tables.described(hosted.config)
    return described


@json_route(
    blueprint,
    "POST",
    "/tokenize",
    body="TokenizeRequest",
    other="GLMTokenizeRequest",
    group="native",
    tag="llama.cpp",
)
def tokenize(services: Services, record: Record) -> Any:
    """Tokens of a text, in llama-server's form or GLM's.

    llama-server's {content, add_special, with_pieces} to {tokens}; GLM's {prompt}."""
    raw = sent_json()
    if "prompt" in raw and "content" not in raw:
        return _tokenized_prompt(services, record, raw)
    values = read_all(raw, TOKENIZE)
    text = values["content"], values["add_special"]
    gateway = services.gateway
    with counted(services, record, values["model"]) as (cancel, may):
        model, _ = gateway.registry.answering(values["model"])
        if not values["with_pieces"]:
            return {"tokens": gateway.tokenize(model, *text, cancel, may=may)}
        pieces = gateway.pieces(model, *text, may=may)
    return {"tokens": [{"id": number, "piece": _piece(data)} for number, data in pieces]}


def _tokenized_prompt(services: Services, record: Record, raw: dict[str, Any]) -> dict[str, Any]:
    """GLM's form: the ids, and the text of each, with ▁ for spaces, like sentencepiece."""
    values = read_all(raw, GLM_TOKENIZE)
    gateway = services.gateway
    most = min(values["max_length"], MOST_PIECES)

    def text(token: int) -> str:
        try:
            return gateway.detokenize(model, [token], may=may).replace(" ", "▁")
        except CharacterCut:
            return "\ufffd"

    with counted(services, record, values["model"]) as (cancel, may):
        model, _ = gateway.registry.answering(values["model"])
        tokens = gateway.tokenize(model, values["prompt"], False, cancel, may=may)
        texts = {token: text(token) for token in dict.fromkeys(tokens[:most])}
    return {"tokenIds": tokens[:most], "tokens": [texts[token] for token in tokens[:most]]}


def _piece(data: bytes) -> str | list[int]:
    """Return a token as text, or as bytes if it is a part of a character."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)


@json_route(
    blueprint, "POST", "/detokenize", body="DetokenizeRequest", group="native", tag="llama.cpp"
)
def detokenize(services: Services, record: Record) -> Any:
    """The text of tokens."""
    raw = sent_json()
    values = read_all(raw, DETOKENIZE)
    gateway, tokens = services.gateway, values["tokens"]
    with counted(services, record, values["model"]) as (_, may):
        model, _ = gateway.registry.answering(values["model"])
        return {"content": gateway.detokenize(model, tokens, may=may) if tokens else ""}
