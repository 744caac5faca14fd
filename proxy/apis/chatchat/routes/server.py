"""Routes for models, server settings, prompt templates and embeddings.

Backends are configured when slotproxy starts, and all their models are served at the same time. So
stopping a model does nothing, and changing to another needs no wait.
"""

from __future__ import annotations

from typing import Any

from flask import request

from .... import __version__
from ....errors import ModelNotFound, Unsupported
from ....web.observability import Record
from ....web.permissions import visible
from ....web.services import Services
from ...embeddings.routes import embedded
from .. import bases, params
from ..answer import error_of_list, error_of_table, ok
from ..params import (
    ChatchatModel,
    changed_model,
    configured_models,
    model_config,
    named_model,
    running_models,
    template_of,
    texts_of,
)
from .view import api, json_body, route

blueprint = api("server", __name__)


@route(blueprint, "POST", "/llm_model/list_running_models", shape=error_of_table)
def running(services: Services, record: Record) -> Any:
    """The models served."""
    return ok(running_models(_models(services)))


@route(
    blueprint,
    "POST",
    "/llm_model/list_config_models",
    shape=error_of_table,
    body="ChatchatModelKinds",
)
def configured(services: Services, record: Record) -> Any:
    """The models configured."""
    return ok(configured_models(json_body(services), _models(services)))


@route(
    blueprint,
    "POST",
    "/llm_model/get_model_config",
    shape=error_of_table,
    body="ChatchatModelName",
)
def config(services: Services, record: Record) -> Any:
    """One model."""
    return ok(model_config(_model(services, named_model(json_body(services)))))


@route(blueprint, "POST", "/llm_model/stop", body="ChatchatModelName")
def stop(services: Services, record: Record) -> Any:
    """Always 400: models are chosen where the gateway is started."""
    _model(services, named_model(json_body(services)))
    raise Unsupported("models are configured when slotproxy starts, not through this API")


@route(blueprint, "POST", "/llm_model/change", body="ChatchatModelChange")
def change(services: Services, record: Record) -> Any:
    """Change the model."""
    _, new = changed_model(json_body(services))
    return ok(msg=f"{_model(services, new).name} is served")


def _models(services: Services) -> list[ChatchatModel]:
    return [_model(services, name) for name in _names(services)]


def _names(services: Services) -> tuple[str, ...]:
    return visible(services, request.environ, services.gateway.registry.names())


def _model(services: Services, name: str) -> ChatchatModel:
    """Return a model. Raises ModelNotFound, even if chats accept any model name."""
    registry = services.gateway.registry
    if name not in _names(services):
        raise ModelNotFound(f"the model {name[:100]!r} does not exist", param="model_name")
    pool = registry.pool(registry.resolve(name)[0])
    return ChatchatModel(
        name,
        any(one.up for one in pool),
        next((one.caps.dialect for one in pool if one.caps is not None), "unknown"),
        max((one.n_ctx for one in pool), default=0),
    )


@route(blueprint, "POST", "/server/configs", shape=error_of_table)
def configs(services: Services, record: Record) -> Any:
    """The settings.

    Return the defaults for the client's pages, under the names they use."""
    engines = services.settings.search_engine
    return {
        "VERSION": __version__,
        "LLM_MODELS": list(_names(services)),
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
                name: services.layouts.layout(folder, name).source
                for name in services.layouts.names(folder)
            }
            for folder in params.FOLDERS.values()
        },
    }


@route(blueprint, "POST", "/server/list_search_engines", shape=error_of_list)
def engines(services: Services, record: Record) -> Any:
    """The search engines."""
    return ok(services.settings.search_engine)


@route(blueprint, "POST", "/server/get_prompt_template", body="ChatchatTemplate")
def prompt_template(services: Services, record: Record) -> Any:
    """A prompt template."""
    wanted = template_of(json_body(services))
    return services.layouts.layout(wanted.folder, wanted.name).source


@route(blueprint, "POST", "/other/embed_texts", body="ChatchatTexts")
def embed_texts(services: Services, record: Record) -> Any:
    """Vectors of texts."""
    wanted = texts_of(json_body(services))
    _, made = embedded(services, record, wanted.model, wanted.texts)
    return ok(made.vectors)
