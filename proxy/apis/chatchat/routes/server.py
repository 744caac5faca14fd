"""Routes for models, the server's settings, prompt templates and embeddings.

All models are served at the same time, so to stop or change one does nothing.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from flask import request

from .... import __version__
from ....errors import ModelNotFound, NotFound, Unsupported
from ....web.observability import Record
from ....web.permissions import visible
from ....web.services import Services
from ...embeddings.routes import embedded
from .. import bodies
from .view import error_of_list, error_of_table, ok, route

OURS = re.compile("[0-9a-f]{32}")  # answer ids
log = logging.getLogger("slotproxy.chatchat")


@route("POST", "/chat/feedback", body="ChatchatFeedback")
def feedback(services: Services, record: Record, history_id: str, score: int, reason: str) -> Any:
    """Feedback on an answer: its score is in the log."""
    if not OURS.fullmatch(history_id):
        raise NotFound(f"no such answer: {history_id[:100]!r}")
    log.info("the answer %s got %d of 100", history_id, score)
    return ok(msg=f"feedback on {history_id} saved")


@route("POST", "/llm_model/list_running_models", shape=error_of_table)
def list_running_models(services: Services, record: Record) -> Any:
    """The models served."""
    return ok({name: model for name, model in _models(services).items() if model["running"]})


@route("POST", "/llm_model/list_config_models", shape=error_of_table, body="ChatchatModelKinds")
def list_config_models(services: Services, record: Record, types: list[Any]) -> Any:
    """The models configured."""
    # All models are local here; other kinds that the client requests are left out.
    return ok({bodies.LOCAL: _models(services)} if not types or bodies.LOCAL in types else {})


@route("POST", "/llm_model/get_model_config", shape=error_of_table, body="ChatchatModelName")
def get_model_config(services: Services, record: Record, name: str) -> Any:
    """One model."""
    return ok(_model(services, name))


@route("POST", "/llm_model/stop", body="ChatchatModelName")
def stop(services: Services, record: Record, name: str) -> Any:
    """Always 400: models are chosen where the gateway is started."""
    _model(services, name)
    raise Unsupported("models are configured when slotproxy starts, not through this API")


@route("POST", "/llm_model/change", body="ChatchatModelChange")
def change(services: Services, record: Record, old: str, name: str) -> Any:
    """Change the model."""
    _model(services, name)
    return ok(msg=f"{name} is served")


def _models(services: Services) -> dict[str, dict[str, Any]]:
    return {name: _model(services, name) for name in _names(services)}


def _names(services: Services) -> tuple[str, ...]:
    return visible(services, request.environ, services.gateway.registry.names())


def _model(services: Services, name: str) -> dict[str, Any]:
    """A model without addresses, paths and keys. Raises ModelNotFound."""
    registry = services.gateway.registry
    if name not in _names(services):
        raise ModelNotFound(f"the model {name[:100]!r} does not exist", param="model_name")
    pool = registry.pool(registry.resolve(name)[0])
    config = {
        "online_api": False,
        "model_name": name,
        "device": next((b.caps.dialect for b in pool if b.caps is not None), "unknown"),
        "running": any(backend.up for backend in pool),
    }
    n_ctx = max((backend.n_ctx for backend in pool), default=0)
    return {**config, "context_length": n_ctx} if n_ctx else config


@route("POST", "/server/configs", shape=error_of_table)
def configs(services: Services, record: Record) -> Any:
    """The settings."""
    engines = services.settings.search_engine
    return {
        "VERSION": __version__,
        "LLM_MODELS": list(_names(services)),
        "TEMPERATURE": bodies.TEMPERATURE["temperature"],
        "HISTORY_LEN": 3,
        "DEFAULT_KNOWLEDGE_BASE": "samples",
        "DEFAULT_SEARCH_ENGINE": engines[0] if engines else "",
        "DEFAULT_VS_TYPE": "faiss",
        "CHUNK_SIZE": bodies.CHUNK_SIZE,
        "OVERLAP_SIZE": bodies.CHUNK_OVERLAP,
        "SCORE_THRESHOLD": bodies.SCORE_THRESHOLD,
        "VECTOR_SEARCH_TOP_K": bodies.TOP_K,
        "SEARCH_ENGINE_TOP_K": bodies.TOP_K,
        "ZH_TITLE_ENHANCE": False,
        "PROMPT_TEMPLATES": {
            folder: {
                name: services.layouts.layout(folder, name).source
                for name in services.layouts.names(folder)
            }
            for folder in bodies.FOLDERS
        },
    }


@route("POST", "/server/list_search_engines", shape=error_of_list)
def list_search_engines(services: Services, record: Record) -> Any:
    """The search engines."""
    return ok(services.settings.search_engine)


@route("POST", "/server/get_prompt_template", body="ChatchatTemplate")
def get_prompt_template(services: Services, record: Record, folder: str, name: str) -> Any:
    """A prompt template."""
    return services.layouts.layout(folder, name).source


@route("POST", "/other/embed_texts", body="ChatchatTexts")
def embed_texts(
    services: Services, record: Record, texts: tuple[str, ...], model: str, is_query: bool
) -> Any:
    """Vectors of texts."""
    _, made = embedded(services, record, model, texts)
    return ok(made.vectors)
