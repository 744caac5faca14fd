"""Ollama's routes."""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from typing import Any

from flask import Blueprint, Response, request

from ..dialects.fields import text
from ..dialects.ollama import chat, common, generate, models
from ..dialects.stamp import Stamp
from ..errors import ModelNotFound, Unsupported
from . import body
from .direct import Environ, Sent, post
from .exchange import complete, plain
from .observe import Record
from .services import Services

blueprint = Blueprint("ollama", __name__)


@post(blueprint, "/api/chat")
def chat_(here: Services, environ: Environ) -> Sent:
    early = _early(here, "messages", message={"role": "assistant", "content": ""})
    return complete(here, environ, chat, "", early=early)


@post(blueprint, "/api/generate")
def generate_(here: Services, environ: Environ) -> Sent:
    return complete(here, environ, generate, "", early=_early(here, "prompt", response=""))


def _early(
    here: Services, field: str, **empty: Any
) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
    """A request without messages or prompt only loads the model: it is loaded."""

    def answer(asked: dict[str, Any]) -> dict[str, Any] | None:
        if asked.get(field) or asked.get("suffix"):
            return None
        registry = here.gateway.registry
        _, name = registry.resolve(text(asked, "model").removesuffix(":latest"))
        began = time.time()
        stamp = Stamp("", int(began), name, elapsed=lambda: began % 1)
        return {**common.loaded(asked, stamp), **empty}

    return answer


@blueprint.get("/api/version")
def version() -> Response:
    return plain(lambda here, record: {"version": models.VERSION}, common.error)


@blueprint.get("/api/tags")
def tags() -> Response:
    return _listed(models.tag)


@blueprint.get("/api/ps")
def running() -> Response:
    return _listed(models.running, ("", "loaded", "sleeping"))


@blueprint.post("/api/show")
def show() -> Response:
    def view(here: Services, record: Record) -> Any:
        asked = body.read_json(request.environ, here.settings.max_body)
        name = (text(asked, "model") or text(asked, "name")).removesuffix(":latest")
        if name not in here.gateway.registry.names():
            raise ModelNotFound(f"model {name[:100]!r} not found")
        return models.show(_model(here, name))

    return plain(view, common.error)


@blueprint.route("/api/pull", methods=["POST"])
@blueprint.route("/api/push", methods=["POST"])
@blueprint.route("/api/create", methods=["POST"])
@blueprint.route("/api/copy", methods=["POST"])
@blueprint.route("/api/delete", methods=["DELETE", "POST"])
@blueprint.route("/api/blobs/<path:digest>", methods=["HEAD", "POST"])
def not_ours(digest: str = "") -> Response:
    def view(here: Services, record: Record) -> Any:
        raise Unsupported("models are chosen where the backends are started, not through this API")

    return plain(view, common.error)


def _listed(
    entry: Callable[[models.Model], dict[str, Any]], status: Container[str] | None = None
) -> Response:
    """Of the models, those in one of these states."""

    def view(here: Services, record: Record) -> Any:
        found = [_model(here, name) for name in here.gateway.registry.names()]
        return {"models": [entry(one) for one in found if status is None or one.status in status]}

    return plain(view, common.error)


def _model(here: Services, name: str) -> models.Model:
    registry = here.gateway.registry
    pool, _ = registry.resolve(name)
    backends = registry.pool(pool)
    caps = [b.caps for b in backends if b.caps is not None]
    return models.Model(
        name,
        here.started,
        n_ctx=max((b.n_ctx for b in backends), default=0),
        template=next((c.template for c in caps if c.template), ""),
        infill=any(c.infill for c in caps),
        vision=any(c.vision for c in caps),
        embeddings=any(c.embeddings for c in caps),
        status=registry.status(pool),
    )
