"""What the table of a model says besides its command: fields of requests, and how lists show it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..apis.ollama.models import untagged
from ..apis.presets import preset, preset_request
from ..config import ModelConfig
from ..core.request import CompletionRequest
from ..errors import GatewayError
from ..gateway import Gateway
from ..hosting.host import ModelHost
from ..hosting.model import HostedModel
from .body import read_json
from .documents import with_documents
from .fastpath import Environ
from .observability import Record
from .services import Services

OLLAMA = ("/api/chat", "/api/generate")


def read_request(services: Services, record: Record, environ: Environ) -> dict[str, Any]:
    """The JSON body of a request for an answer, or for its tokens or prompt, as the model's table
    changes it, with its documents as texts. Raises BadRequest, WrongType or BodyTooLarge, and what
    `with_documents` raises."""
    body = read_json(environ, services.settings.max_body)
    with_documents(services, record, environ, body)
    return with_preset(services, body, record.path)


def with_preset(services: Services, body: dict[str, Any], path: str) -> dict[str, Any]:
    """The body of a request at `path`, with the fields that its model's table sets and removes."""
    if not services.host.presets:
        return body
    name = body.get("model")
    name = name if isinstance(name, str) else ""
    is_ollamas = path.endswith(OLLAMA)
    if is_ollamas:
        name = untagged(name)
    table = _preset_of(services.host, services.gateway, name)
    return body if table is None else preset(body, *table, options=is_ollamas)


def own_request(host: ModelHost, gateway: Gateway, request: CompletionRequest) -> CompletionRequest:
    """The same for a request that the gateway makes itself, as for the chat page. Raises
    InvalidParameter if the table sets what is no value of its field."""
    table = _preset_of(host, gateway, request.model) if host.presets else None
    return request if table is None else preset_request(request, *table)


def _preset_of(
    host: ModelHost, gateway: Gateway, name: str
) -> tuple[Collection[str], Mapping[str, Any]] | None:
    """What the table of the model of this name removes and sets, None without a table."""
    try:
        model, _ = gateway.registry.resolve(name)
    except GatewayError:
        return None  # refused when it is parsed, or placed
    hosted = host.find(model)
    if hosted is None:
        return None
    config = hosted.config
    return config.strip, {**config.set, **config.set_by_alias.get(name, {})}


def described(config: ModelConfig) -> dict[str, Any]:
    """The fields of a model in OpenAI's list, as llama-swap names them."""
    shown = {"name": config.title, "description": config.description}
    return {name: text for name, text in shown.items() if text}


def metadata(model: HostedModel) -> dict[str, Any]:
    """What its `meta` has besides: the metadata of its table, and what its file tells before it is
    loaded, under llama-server's names."""
    config, file = model.config, model.needs.file
    own = {"llamaswap": config.metadata} if config.metadata else {}
    if file is None:
        return own
    told = {
        "name": file.text("general.name"),
        "n_ctx_train": file.context,
        "n_embd": file.own("embedding_length"),
    }
    return {**own, "size": file.size, **{name: value for name, value in told.items() if value}}
