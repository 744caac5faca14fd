"""Routes of Ollama's API."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import msgspec
from flask import Response, request

from ...errors import ModelNotFound, Unsupported
from ...hosting.model_files import ModelFile
from ...runtime.blocking import run_in_native_thread
from ...runtime.cancel import Cancel
from ...web import body, permissions
from ...web.fastpath import BodyAndHeaders, Environ, post
from ...web.observability import Record
from ...web.permissions import check_model, local_model, visible
from ...web.routes import LINES, Api
from ...web.services import Services
from ...web.spine import completion_view, json_route, json_view
from .. import schema_fields as doc
from ..fields import text
from ..response_meta import ResponseMeta
from . import chat, common, generate
from .common import (
    VERSION,
    OllamaModel,
    model_tag,
    parse_show,
    running_model,
    shown_model,
    untagged,
)

blueprint = Api(
    "ollama",
    __name__,
    group="ollama",
    tag="Ollama",
    ledger="ollama",
    error=common.error,
    error_schema="OllamaError",
    owns="/api/",
    schemas={
        "OllamaChatRequest": doc.body(**chat.FIELDS),
        "OllamaGenerateRequest": doc.body(**generate.FIELDS),
        "OllamaShowRequest": doc.body(
            model=doc.text("The model's name. Here any name must be one that is served.", "any"),
            name=doc.text("The same, in the older form.", "any"),
        ),
    },
)
_route = partial(json_route, blueprint)


@post(blueprint, "/api/chat", body="OllamaChatRequest", streams=LINES, reply="OllamaChat")
def chat_(services: Services, environ: Environ) -> Response | BodyAndHeaders:
    """A chat, streamed unless `stream` is false."""
    early = _early(services, environ, "messages", message={"role": "assistant", "content": ""})
    return completion_view(services, environ, chat, "", early=early)


@post(
    blueprint, "/api/generate", body="OllamaGenerateRequest", streams=LINES, reply="OllamaGenerate"
)
def generate_(services: Services, environ: Environ) -> Response | BodyAndHeaders:
    """A completion, streamed unless `stream` is false."""
    return completion_view(
        services, environ, generate, "", early=_early(services, environ, "prompt", response="")
    )


def _early(
    services: Services, environ: Environ, field: str, **empty: Any
) -> Callable[[dict[str, Any], Cancel], dict[str, Any] | None]:
    """Return a handler for requests without messages or prompt, which only load or unload the
    model. It also applies `keep_alive`, for admins, to a model that the gateway starts."""

    def answer(asked: dict[str, Any], cancel: Cancel) -> dict[str, Any] | None:
        only = not (asked.get(field) or asked.get("suffix"))
        keep = common.keep_alive(asked)
        if keep is None and not only:
            return None
        registry = services.gateway.registry
        check_model(services, environ, untagged(text(asked, "model")))
        pool, name = registry.resolve(untagged(text(asked, "model")))
        model = services.host.find(pool)
        if model is not None and permissions.is_admin(services, Record.of(environ).key):
            if only and keep == 0:
                model.stop()
            elif keep is not None:
                model.ttl = keep
            if only and keep != 0:
                # Ollama's clients expect the answer once the model is loaded.
                for _ in model.use(cancel, services.settings.timeout, services.settings.timeout):
                    pass
                model.leave(answered=False)
        if not only:
            return None
        began = time.time()
        meta = ResponseMeta("", int(began), name, elapsed=lambda: began % 1)
        return {**common.loaded(asked, meta), **empty}

    return answer


@_route("GET", "/api/version")
def version(services: Services, record: Record) -> Any:
    """The version of Ollama that is spoken here."""
    return {"version": VERSION}


@_route("GET", "/api/tags")
def tags(services: Services, record: Record) -> Any:
    """The models served."""
    listed = _models(services)
    local = local_model(services, request.environ)
    if local and all(local != one.name for one in listed):
        listed.append(_local_model(services, local))
    return {"models": [model_tag(one) for one in listed]}


@_route("GET", "/api/ps")
def running(services: Services, record: Record) -> Any:
    """The models that are loaded."""
    loaded = [one for one in _models(services) if one.status in ("", "loaded", "sleeping")]
    return {"models": [running_model(one) for one in loaded]}


@_route("POST", "/api/show", body="OllamaShowRequest")
def show(services: Services, record: Record) -> Any:
    """One model."""
    asked = body.read_json(request.environ, services.settings.max_body)
    name = parse_show(asked)
    if name not in services.gateway.registry.names():
        if name == local_model(services, request.environ):
            return shown_model(_local_model(services, name))
        raise ModelNotFound(f"model {name[:100]!r} not found")
    check_model(services, request.environ, name)
    model = _model(services, name)
    file = _file(services, name)
    if not model.template and file is not None:
        template = run_in_native_thread(lambda: file.template)
        model = msgspec.structs.replace(model, template=template)
    return shown_model(model)


@blueprint.route("/api/pull", methods=["POST"])
@blueprint.route("/api/push", methods=["POST"])
@blueprint.route("/api/create", methods=["POST"])
@blueprint.route("/api/copy", methods=["POST"])
@blueprint.route("/api/delete", methods=["DELETE", "POST"])
@blueprint.route("/api/blobs/<path:digest>", methods=["HEAD", "POST"])
def not_ours(digest: str = "") -> Response:
    """Always 400: models are chosen where the backends are started."""

    def view(services: Services, record: Record) -> NoReturn:
        raise Unsupported("models are configured when the backends start, not through this API")

    return json_view(view, common.error)


def _file(services: Services, name: str) -> ModelFile | None:
    """The file of a model that the gateway starts."""
    pool, _ = services.gateway.registry.resolve(name)
    hosted = services.host.find(pool)
    return hosted.needs.file if hosted is not None else None


def _models(services: Services) -> list[OllamaModel]:
    names = visible(services, request.environ, services.gateway.registry.names())
    return [_model(services, name) for name in names]


def _local_model(services: Services, name: str) -> OllamaModel:
    return OllamaModel(
        name=name, created=services.started, family="use", embeddings=True, generates=False
    )


def _model(services: Services, name: str) -> OllamaModel:
    registry = services.gateway.registry
    pool, _ = registry.resolve(name)
    backends = registry.pool(pool)
    caps = [b.caps for b in backends if b.caps is not None]
    hosted = services.host.find(pool)
    file = _file(services, name)
    return OllamaModel(
        name=name,
        created=services.started,
        n_ctx=max((b.n_ctx for b in backends), default=0),
        template=next((c.template for c in caps if c.template), ""),
        infill=any(c.infill for c in caps),
        vision=any(c.vision for c in caps),
        embeddings=any(c.embeddings for c in caps),
        status=registry.status(pool),
        size=sum(hosted.need) if hosted is not None else 0,
        on_cards=sum(hosted.needs.cards) if hosted is not None else 0,
        expires=time.time() + hosted.left if hosted is not None else math.inf,
        on_disk=file.size if file is not None else 0,
        family=file.family if file is not None else "",
        parameters=file.text("general.size_label") if file is not None else "",
        quantization=file.quantization if file is not None else "",
        trained=file.context if file is not None else 0,
    )
