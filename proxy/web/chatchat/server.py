"""The models that are served, what the server is set to, prompt templates, embeddings.

Backends are chosen where slotproxy is started, and all their models are served at once: there is
nothing to stop, and nothing to wait for when another one is to be used.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request

from ... import __version__
from ...cancel import Cancel
from ...dialects.chatchat import asked, bases, reply, server
from ...errors import ModelNotFound, Unsupported
from .. import disconnect
from ..observe import Record
from ..services import Services
from .view import asked as body
from .view import plain

blueprint = Blueprint("server", __name__)


@blueprint.post("/llm_model/list_running_models")
def running() -> Response:
    return plain(lambda here, record: reply.ok(server.running(_models(here))), reply.error_of_table)


@blueprint.post("/llm_model/list_config_models")
def configured() -> Response:
    def view(here: Services, record: Record) -> Any:
        return reply.ok(server.configured(body(here), _models(here)))

    return plain(view, reply.error_of_table)


@blueprint.post("/llm_model/get_model_config")
def config() -> Response:
    def view(here: Services, record: Record) -> Any:
        return reply.ok(server.config(_model(here, server.model_name(body(here)))))

    return plain(view, reply.error_of_table)


@blueprint.post("/llm_model/stop")
def stop() -> Response:
    def view(here: Services, record: Record) -> Any:
        _model(here, server.model_name(body(here)))
        raise Unsupported("models are chosen where slotproxy is started, not through this API")

    return plain(view)


@blueprint.post("/llm_model/change")
def change() -> Response:
    def view(here: Services, record: Record) -> Any:
        _, new = server.change(body(here))
        return reply.ok(msg=f"{_model(here, new).name} is served")

    return plain(view)


def _models(here: Services) -> list[server.Model]:
    return [_model(here, name) for name in here.gateway.registry.names()]


def _model(here: Services, name: str) -> server.Model:
    """Raises ModelNotFound, also where any name would do for a chat."""
    registry = here.gateway.registry
    if name not in registry.names():
        raise ModelNotFound(f"the model {name[:100]!r} is not served here", param="model_name")
    pool = registry.pool(registry.resolve(name)[0])
    return server.Model(
        name,
        any(one.up for one in pool),
        next((one.caps.dialect for one in pool if one.caps is not None), "unknown"),
        max((one.n_ctx for one in pool), default=0),
    )


@blueprint.post("/server/configs")
def configs() -> Response:
    """What pages take their defaults from, under the names they know."""

    def view(here: Services, record: Record) -> Any:
        engines = here.settings.search_engine
        return {
            "VERSION": __version__,
            "LLM_MODELS": list(here.gateway.registry.names()),
            "TEMPERATURE": asked.TEMPERATURE,
            "HISTORY_LEN": 3,
            "DEFAULT_KNOWLEDGE_BASE": "samples",
            "DEFAULT_SEARCH_ENGINE": engines[0] if engines else "",
            "DEFAULT_VS_TYPE": "faiss",
            "CHUNK_SIZE": bases.CHUNK_SIZE,
            "OVERLAP_SIZE": bases.CHUNK_OVERLAP,
            "SCORE_THRESHOLD": asked.SCORE_THRESHOLD,
            "VECTOR_SEARCH_TOP_K": asked.TOP_K,
            "SEARCH_ENGINE_TOP_K": asked.TOP_K,
            "ZH_TITLE_ENHANCE": False,
            "PROMPT_TEMPLATES": {
                folder: {
                    name: here.layouts.source(folder, name) for name in here.layouts.names(folder)
                }
                for folder in asked.FOLDERS.values()
            },
        }

    return plain(view, reply.error_of_table)


@blueprint.post("/server/list_search_engines")
def engines() -> Response:
    return plain(lambda here, record: reply.ok(here.settings.search_engine), reply.error_of_list)


@blueprint.post("/server/get_prompt_template")
def prompt_template() -> Response:
    def view(here: Services, record: Record) -> Any:
        wanted = server.template(body(here))
        return here.layouts.source(wanted.folder, wanted.name)

    return plain(view)


@blueprint.post("/other/embed_texts")
def embed_texts() -> Response:
    def view(here: Services, record: Record) -> Any:
        wanted = server.texts(body(here))
        here.observer.begin(record)
        cancel = Cancel()
        stop_watching = disconnect.watch(request.environ, cancel)
        try:
            _, found = here.embedder.embed(wanted.model, wanted.texts, cancel)
        finally:
            stop_watching()
        return reply.ok(found.vectors)

    return plain(view)
