"""Routes of Ollama's API."""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from typing import Any

from flask import Blueprint, Response, request

from ..dialects.fields import text
from ..dialects.ollama import chat, common, generate, models
from ..dialects.response_meta import ResponseMeta
from ..errors import ModelNotFound, Unsupported
from . import body
from .fastpath import Environ, post
from .observability import Record
from .services import Services
from .spine import completion_view, json_view

blueprint = Blueprint("ollama", __name__)


@post(blueprint, "/api/chat")
def chat_(services: Services, environ: Environ) -> Response:
    early = _early(services, "messages", message={"role": "assistant", "content": ""})
    return completion_view(services, environ, chat, "", early=early)


@post(blueprint, "/api/generate")
def generate_(services: Services, environ: Environ) -> Response:
    return completion_view(
        services, environ, generate, "", early=_early(services, "prompt", response="")
    )


def _early(
    services: Services, field: str, **empty: Any
) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
    """Return a handler for requests without messages or prompt, which only load the model."""

    def answer(asked: dict[str, Any]) -> dict[str, Any] | None:
        if asked.get(field) or asked.get("suffix"):
            return None
        registry = services.gateway.registry
        _, name = registry.resolve(text(asked, "model").removesuffix(":latest"))
        began = time.time()
        stamp = ResponseMeta("", int(began), name, elapsed=lambda: began % 1)
        return {**common.loaded(asked, stamp), **empty}

    return answer


@blueprint.get("/api/version")
def version() -> Response:
    return json_view(lambda services, record: {"version": models.VERSION}, common.error)


@blueprint.get("/api/tags")
def tags() -> Response:
    return _listed(models.tag)


@blueprint.get("/api/ps")
def running() -> Response:
    return _listed(models.running, ("", "loaded", "sleeping"))


@blueprint.post("/api/show")
def show() -> Response:
    def view(services: Services, record: Record) -> Any:
        asked = body.read_json(request.environ, services.settings.max_body)
        name = models.parse_show(asked)
        if name not in services.gateway.registry.names():
            raise ModelNotFound(f"model {name[:100]!r} not found")
        return models.show(_model(services, name))

    return json_view(view, common.error)


@blueprint.route("/api/pull", methods=["POST"])
@blueprint.route("/api/push", methods=["POST"])
@blueprint.route("/api/create", methods=["POST"])
@blueprint.route("/api/copy", methods=["POST"])
@blueprint.route("/api/delete", methods=["DELETE", "POST"])
@blueprint.route("/api/blobs/<path:digest>", methods=["HEAD", "POST"])
def not_ours(digest: str = "") -> Response:
    def view(services: Services, record: Record) -> Any:
        raise Unsupported("models are configured when the backends start, not through this API")

    return json_view(view, common.error)


def _listed(
    entry: Callable[[models.OllamaModel], dict[str, Any]], status: Container[str] | None = None
) -> Response:
    """List models, or only those with one of the states in `status`."""

    def view(services: Services, record: Record) -> Any:
        models_ = [_model(services, name) for name in services.gateway.registry.names()]
        return {"models": [entry(one) for one in models_ if status is None or one.status in status]}

    return json_view(view, common.error)


def _model(services: Services, name: str) -> models.OllamaModel:
    registry = services.gateway.registry
    pool, _ = registry.resolve(name)
    backends = registry.pool(pool)
    caps = [b.caps for b in backends if b.caps is not None]
    return models.OllamaModel(
        name=name,
        created=services.started,
        n_ctx=max((b.n_ctx for b in backends), default=0),
        template=next((c.template for c in caps if c.template), ""),
        infill=any(c.infill for c in caps),
        vision=any(c.vision for c in caps),
        embeddings=any(c.embeddings for c in caps),
        status=registry.status(pool),
    )
