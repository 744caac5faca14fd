"""Routes for models, server settings, prompt templates and embeddings.

Backends are configured when slotproxy starts, and all their models are served at the same time. So
stopping a model does nothing, and changing to another needs no wait.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request

from ... import __version__
from ...dialects.chatchat import bases, params, reply, server
from ...errors import ModelNotFound, Unsupported
from ...runtime.cancel import Cancel
from .. import disconnect
from ..observability import Record
from ..services import Services
from .view import asked as body
from .view import json_view

blueprint = Blueprint("server", __name__)


@blueprint.post("/llm_model/list_running_models")
def running() -> Response:
    return json_view(
        lambda services, record: reply.ok(server.running(_models(services))), reply.error_of_table
    )


@blueprint.post("/llm_model/list_config_models")
def configured() -> Response:
    def view(services: Services, record: Record) -> Any:
        return reply.ok(server.configured(body(services), _models(services)))

    return json_view(view, reply.error_of_table)


@blueprint.post("/llm_model/get_model_config")
def config() -> Response:
    def view(services: Services, record: Record) -> Any:
        return reply.ok(server.config(_model(services, server.model_name(body(services)))))

    return json_view(view, reply.error_of_table)


@blueprint.post("/llm_model/stop")
def stop() -> Response:
    def view(services: Services, record: Record) -> Any:
        _model(services, server.model_name(body(services)))
        raise Unsupported("models are configured when slotproxy starts, not through this API")

    return json_view(view)


@blueprint.post("/llm_model/change")
def change() -> Response:
    def view(services: Services, record: Record) -> Any:
        _, new = server.change(body(services))
        return reply.ok(msg=f"{_model(services, new).name} is served")

    return json_view(view)


def _models(services: Services) -> list[server.ChatchatModel]:
    return [_model(services, name) for name in services.gateway.registry.names()]


def _model(services: Services, name: str) -> server.ChatchatModel:
    """Return a model. Raises ModelNotFound, even if chats accept any model name."""
    registry = services.gateway.registry
    if name not in registry.names():
        raise ModelNotFound(f"the model {name[:100]!r} does not exist", param="model_name")
    pool = registry.pool(registry.resolve(name)[0])
    return server.ChatchatModel(
        name,
        any(one.up for one in pool),
        next((one.caps.dialect for one in pool if one.caps is not None), "unknown"),
        max((one.n_ctx for one in pool), default=0),
    )


@blueprint.post("/server/configs")
def configs() -> Response:
    """Return the defaults for the client's pages, under the names they use."""

    def view(services: Services, record: Record) -> Any:
        engines = services.settings.search_engine
        return {
            "VERSION": __version__,
            "LLM_MODELS": list(services.gateway.registry.names()),
            "TEMPERATURE": params.TEMPERATURE,
            "HISTORY_LEN": 3,
            "DEFAULT_KNOWLEDGE_BASE": "samples",
            "DEFAULT_SEARCH_ENGINE": engines[0] if engines else "",
            "DEFAULT_VS_TYPE": "faiss",
            "CHUNK_SIZE": bases.CHUNK_SIZE,
            "OVERLAP_SIZE": bases.CHUNK_OVERLAP,
            "SCORE_THRESHOLD": params.SCORE_THRESHOLD,
            "VECTOR_SEARCH_TOP_K": params.TOP_K,
            "SEARCH_ENGINE_TOP_K": params.TOP_K,
            "ZH_TITLE_ENHANCE": False,
            "PROMPT_TEMPLATES": {
                folder: {
                    name: services.layouts.source(folder, name)
                    for name in services.layouts.names(folder)
                }
                for folder in params.FOLDERS.values()
            },
        }

    return json_view(view, reply.error_of_table)


@blueprint.post("/server/list_search_engines")
def engines() -> Response:
    return json_view(
        lambda services, record: reply.ok(services.settings.search_engine), reply.error_of_list
    )


@blueprint.post("/server/get_prompt_template")
def prompt_template() -> Response:
    def view(services: Services, record: Record) -> Any:
        wanted = server.template(body(services))
        return services.layouts.source(wanted.folder, wanted.name)

    return json_view(view)


@blueprint.post("/other/embed_texts")
def embed_texts() -> Response:
    def view(services: Services, record: Record) -> Any:
        wanted = server.texts(body(services))
        services.observer.begin(record)
        cancel = Cancel()
        stop_watching = disconnect.watch(request.environ, cancel)
        try:
            _, embeddings = services.embedder.embed(wanted.model, wanted.texts, cancel)
        finally:
            stop_watching()
        return reply.ok(embeddings.vectors)

    return json_view(view)
