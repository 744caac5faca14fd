"""llama.cpp's own routes, so that its clients and editor plugins work with the gateway.

Slots are numbered consecutively over all backends. Every key may read them; saving, restoring and
erasing a slot needs a key named in the setting `admins`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NoReturn

from flask import Response, request

from ...errors import Forbidden, NoBackend, NotFound
from ...web import permissions as visibility
from ...web.admitted import counted
from ...web.body import parsed
from ...web.fastpath import BodyAndHeaders, Environ, post
from ...web.model_tables import read_request
from ...web.observability import Record
from ...web.permissions import check_model, of_caller
from ...web.routes import SSE, Api
from ...web.services import Services
from ...web.spine import completion_view, json_route, sent_json
from .. import fields
from ..openai import chat as openai_chat
from ..schema_fields import read_all
from . import native as llamacpp_native

blueprint = Api(
    "native",
    __name__,
    group="native",
    tag="llama.cpp",
    ledger="llamacpp",
    error=llamacpp_native.error,
    schemas=llamacpp_native.SCHEMAS,
)
_route = partial(json_route, blueprint)


@post(blueprint, "/completion", body="LlamaCompletionRequest", streams=SSE)
def completion(services: Services, environ: Environ) -> Response | BodyAndHeaders:
    """A completion, streamed or whole."""
    return completion_view(services, environ, llamacpp_native.completion, "")


@post(blueprint, "/infill", body="LlamaInfillRequest", streams=SSE)
def infill(services: Services, environ: Environ) -> Response | BodyAndHeaders:
    """Code completion, streamed or whole."""
    return completion_view(services, environ, llamacpp_native.infill, "")


@_route("GET POST", "/cors-proxy")
def cors_proxy(services: Services, record: Record) -> NoReturn:
    """Always 403: nothing is fetched for a page.

    llama-server's proxy for its own page, which the gateway does not offer."""
    raise Forbidden("slotproxy does not fetch from other hosts on behalf of a web page")


@_route("POST", "/apply-template", body="ChatCompletionRequest")
def apply_template(services: Services, record: Record) -> Any:
    """The prompt of a chat."""
    raw = read_request(services, record, request.environ)
    chat = parsed(partial(openai_chat.parse, raw), request.environ, raw)
    chat = of_caller(services, request.environ, chat)
    with counted(services, record, chat.model) as (_, may):
        return {"prompt": services.gateway.prompt(chat, may=may)}


@_route("GET", "/props")
def props(services: Services, record: Record) -> Any:
    """What the backend is, and what it samples by."""
    registry = services.gateway.registry
    model_name = fields.text(request.args, "model")
    check_model(services, request.environ, model_name)
    model, name = registry.resolve(model_name)
    backends = registry.pool(model)
    caps = [b.caps for b in backends if b.caps is not None]
    shown = next((c for c in caps if c.template), caps[0] if caps else None)
    sees, hears = services.gateway.accepts_images(name), any(c.audio for c in caps)
    return {
        "default_generation_settings": {
            "n_ctx": max((b.n_ctx for b in backends), default=0),
            "params": shown.settings if shown else {},
        },
        "total_slots": sum(services.gateway.scheduler.slots(b.name) for b in backends),
        "model_alias": name,
        "model_path": "",
        "modalities": {"vision": sees, "audio": hears},
        "endpoint_slots": True,
        "endpoint_props": False,
        "endpoint_metrics": services.settings.metrics,
        "chat_template": shown.template if shown else "",
        "bos_token": shown.bos_token if shown else "",
        "eos_token": shown.eos_token if shown else "",
        "build_info": shown.build if shown else "",
        "user_name": services.settings.user_name,
        "assistant_name": services.settings.ai_name,
    }


@_route("GET", "/slots")
def slots(services: Services, record: Record) -> Any:
    """The slots of all backends."""
    shown = visibility.shown_names(services, record.key)
    slots = [{**slot, "backend": shown(slot["backend"])} for slot in _slots(services)]
    if request.args.get("fail_on_no_slot") and all(s["is_processing"] for s in slots):
        raise NoBackend("no slot available", retry_after=1.0)
    return slots


def _slots(services: Services) -> list[dict[str, Any]]:
    """All slots as the scheduler sees them. A llama-server with a RAM cache reports its choice only
    at the end: the number of its busy slots is right, but not which ones they are."""
    slots_of = {
        view.backend: view.slots for view in services.gateway.scheduler.view("", "").backends
    }
    out: list[dict[str, Any]] = []
    for backend in services.gateway.registry.backends.values():
        for slot in slots_of.get(backend.name, ()):
            out.append(
                {
                    "id": len(out),
                    "n_ctx": backend.n_ctx,
                    "is_processing": slot.state == "busy",
                    "backend": backend.name,
                    "backend_slot": slot.id,
                }
            )
    return out


@_route("POST", "/slots/<int:number>", body="SlotFileRequest")
def slot_action(services: Services, record: Record, number: int) -> Any:
    """Save, restore or erase a slot, by the query's `action`; for the keys of `--admins`."""
    if not record.key or not services.keys.is_admin(record.key):
        raise Forbidden("changing slots requires an admin API key: see the setting admins")
    action = request.args.get("action", "")
    file = ""
    if action != "erase":
        sent = sent_json()
        file = read_all(sent, llamacpp_native.SLOT_FILE)["filename"]
    slot = next((s for s in _slots(services) if s["id"] == number), None)
    if slot is None:
        raise NotFound(f"no such slot: {number}")
    tokens, size = services.gateway.slot_action(slot["backend"], action, slot["backend_slot"], file)
    return {"id_slot": number, "filename": file, "action": action, "n": tokens, "bytes": size}
