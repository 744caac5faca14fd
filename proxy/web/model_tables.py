"""What the table of a model says besides its command: fields of requests, and how lists show it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from ..apis.contents import Attachment, attachments
from ..apis.ollama.dialects import untagged
from ..apis.openai import chat as openai_chat
from ..config import PORT, ModelConfig
from ..core.request import CompletionRequest
from ..core.sampling import FIELDS
from ..errors import GatewayError, NotFound
from ..gateway import Caller, Gateway
from ..hosting.host import ModelHost
from ..hosting.model import HostedModel
from .body import read_json
from .fastpath import Environ
from .observability import Record
from .observability.record import may_capture
from .people import of_claude_code
from .services import Services


# Documents within the body of a request become their texts before it is parsed.
def with_documents(
    services: Services, record: Record, environ: Environ, body: Mapping[str, Any]
) -> None:
    """Replace the documents of a request by their texts; those that cannot be read get a warning.
    Raises QueueFull, StoreUnavailable and LimitReached."""
    documents: list[Attachment] = []
    for field in filter(body.__contains__, ("messages", "input", "items")):
        for message in messages if type(messages := body[field]) is list else ():
            if type(message) is dict:
                if type(content := message.get("content")) is list:  # most are texts
                    documents += attachments(content)
                if "output" in message:
                    documents += attachments(message["output"])
    if not documents:
        return

    def uploaded(file_id: str) -> tuple[str, Callable[[], bytes]]:
        if services.vector_stores is None:
            raise NotFound("the gateway stores no files")
        file, data = services.vector_stores.content(record.key, file_id)
        return file.filename, lambda: b"".join(data)

    def check_limits() -> None:
        allowance = services.callers.caller(record.key, environ).allowance
        if allowance is not None:
            allowance.check()  # documents are read before the answer is admitted

    warnings = services.documents.read(documents, record.key, uploaded, check_limits)
    record.warnings += tuple(warnings)


# Which session a request belongs to, as its client names it.
#
# A session groups the conversations of one agent: its own, those of its sub-agents, and requests
# for titles. Clients name it in many ways; the first name of this order counts:
#
# | source | sent by |
# |---|---|
# | `X-Session-ID`, `X-Litellm-Session-Id` | opencode, LiteLLM |
# | `X-Conversation-Id` | LibreChat as its documentation sets it up, own programs |
# | `X-OpenWebUI-Chat-Id` | Open WebUI |
# | `X-Claude-Code-Session-Id` | Claude Code since 2.1.86 |
# | `Session-Id`, `Session_id` | Codex, pi |
# | `X-Session-Affinity`, `X-Session-Token` | opencode, vLLM's clients, llm-d's |
# | `prompt_cache_key`, `session` in the body | OpenAI's SDKs, Codex, llama-server's clients |
# | `conversation` in the body: a name, or an object with an `id` | clients of the Responses API |
# | `metadata.user_id` in the body: its session | Claude Code |
# | `previous_response_id` in the body | OpenAI's SDKs; the API of Responses finds the name |
#
# A name is the client's own text: it is never sent to a backend, logged or stored. The scheduler
# keeps a digest of it, salted with the group of the key.
LONGEST = 512  # characters of a name
HEADERS = (
    "HTTP_X_SESSION_ID",
    "HTTP_X_LITELLM_SESSION_ID",
    "HTTP_X_CONVERSATION_ID",
    "HTTP_X_OPENWEBUI_CHAT_ID",
    "HTTP_X_CLAUDE_CODE_SESSION_ID",
    "HTTP_SESSION_ID",
    "HTTP_X_SESSION_AFFINITY",
    "HTTP_X_SESSION_TOKEN",
)


def session_name(
    environ: Mapping[str, Any], body: Mapping[str, Any] | None = None, parsed: str = ""
) -> str:
    """The name of the session, "" if the client gives none. `parsed` is what the dialect found in
    the body. Values of the wrong type are no names."""
    for header in filter(environ.__contains__, HEADERS):
        name = environ[header]
        if name:
            return str(name)[:LONGEST]
    if parsed:
        return parsed[:LONGEST]
    if body and ("conversation" in body or "metadata" in body):
        return _in_body(body)[:LONGEST]
    return ""


def _in_body(body: Mapping[str, Any]) -> str:
    conversation = body.get("conversation")
    if type(conversation) is dict:
        conversation = conversation.get("id")
    if type(conversation) is str and conversation:
        return conversation
    return of_claude_code(body)[1]


OLLAMA = ("/api/chat", "/api/generate")


def read_request(services: Services, record: Record, environ: Environ) -> dict[str, Any]:
    """The JSON body of a request for an answer, or for its tokens or prompt, as the model's table
    changes it, with its documents as texts. Raises BadRequest, WrongType or BodyTooLarge, and what
    reading its documents raises."""
    body = read_json(environ, services.settings.max_body)
    if "capture" in body and not may_capture(body.pop("capture")) and record.capture is not None:
        record.capture.off = True
    with_documents(services, record, environ, body)
    return with_preset(services, body, record.path) if services.host.presets else body


def with_preset(services: Services, body: dict[str, Any], path: str) -> dict[str, Any]:
    """The body of a request at `path`, with the fields that its model's table sets and removes."""
    name = body.get("model")
    name = name if isinstance(name, str) else ""
    is_ollamas = path.endswith(OLLAMA)
    if is_ollamas:
        name = untagged(name)
    table = _preset_of(services.host, services.gateway, name)
    return body if table is None else preset(body, *table, options=is_ollamas)


def own_request(
    host: ModelHost, gateway: Gateway, request: CompletionRequest, caller: Caller
) -> CompletionRequest:
    """The same for a request that the gateway makes itself, as for the chat page, with the model
    that the rules of a route choose. Raises like `Chooser.choose` and `of_model`."""
    if chosen := gateway.choose(request, caller.key, caller.may, remembers=True):
        request = replace(request, model=chosen.model)
    return of_model(host, gateway, request)


def of_model(host: ModelHost, gateway: Gateway, request: CompletionRequest) -> CompletionRequest:
    """The request as the table of its model changes it. Raises InvalidParameter if the table sets
    what is no value of its field."""
    table = _preset_of(host, gateway, request.model) if host.presets else None
    return request if table is None else preset_request(request, *table)


def _preset_of(
    host: ModelHost, gateway: Gateway, name: str
) -> tuple[Collection[str], Mapping[str, Any]] | None:
    """What the table of the model of this name removes and sets, None without a table."""
    if gateway.registry.ruled(name):
        return None  # that of the model which is chosen counts
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
    """What its `meta` has besides: what its file tells before it is loaded, under llama-server's
    names, and what its table says, under llama-swap's."""
    file, server, own = model.needs.file, model.server, {}
    if model.config.metadata:
        port = str(urlsplit(server.url).port) if server is not None else "null"
        text = msgspec.json.encode(model.config.metadata).decode().replace(f'"{PORT}"', port)
        own["llamaswap"] = msgspec.json.decode(text.replace(PORT, port))
    if file is None:
        return own
    fields = {
        "name": file.text("general.name"),
        "n_ctx_train": file.context,
        "n_embd": file.own("embedding_length"),
    }
    return {**own, "size": file.size, **{name: value for name, value in fields.items() if value}}


# Fields that the table of a model sets in requests, or removes from them.
# What Ollama's requests have in `options`, besides sampling fields.
_OPTIONS = frozenset(FIELDS) | {"num_ctx", "num_keep", "num_predict", "stop"}

# What a table sets in a request that has no body; the rest is the gateway's own.
_SET = ("max_tokens", "stop", "output", "reasoning_effort", "reasoning_format", "template_kwargs")
_NOTHING = CompletionRequest()


def preset(
    body: Mapping[str, Any],
    remove: Collection[str],
    fields: Mapping[str, Any],
    *,
    options: bool = False,
) -> dict[str, Any]:
    """The body without the fields of `remove` and with `fields`, which replace those of the client.
    With `options`, it is one of Ollama's, which has most of them in an object of that name."""
    changed = {key: value for key, value in body.items() if key not in remove}
    if not options:
        return {**changed, **fields}
    inner = changed.get("options", {})
    if not isinstance(inner, dict):
        return changed  # refused by the dialect
    inner = {key: value for key, value in inner.items() if key not in remove}
    for key, value in fields.items():
        (inner if key in _OPTIONS else changed)[key] = value
    return {**changed, "options": inner}


def preset_request(
    request: CompletionRequest, remove: Collection[str], fields: Mapping[str, Any]
) -> CompletionRequest:
    """The same for a request of the gateway itself. Raises InvalidParameter."""
    message = {"role": "user", "content": ""}
    changed = openai_chat.parse({**fields, "messages": [message]})
    sampling = {key: value for key, value in request.sampling.items() if key not in remove}
    values: dict[str, Any] = {"sampling": {**sampling, **changed.sampling}}
    if "max_tokens" in remove:
        values["max_tokens"] = None
    for name in _SET:
        if (value := getattr(changed, name)) != getattr(_NOTHING, name):
            values[name] = value
    return replace(request, **values)
