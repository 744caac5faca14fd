"""llama.cpp's own routes, so that its clients and editor plugins work through us.

Slots are numbered through, backend by backend. Reading is open to every key; saving, restoring and
erasing a slot only to the keys named in the setting `admins`.
"""

from __future__ import annotations

import re
from typing import Any

from flask import Blueprint, Response, request

from ..core.invalid import Invalid
from ..dialects import fields, llamacpp_native, openai_chat
from ..errors import Forbidden, NoBackend, NotFound
from ..gateway.slots import act
from . import body, seen
from .direct import Environ, Sent, post
from .exchange import complete, plain
from .observe import Record
from .services import Services

blueprint = Blueprint("native", __name__)

FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
ACTIONS = ("save", "restore", "erase")


@post(blueprint, "/completion")
def completion(here: Services, environ: Environ) -> Sent:
    return complete(here, environ, llamacpp_native.completion, "")


@post(blueprint, "/infill")
def infill(here: Services, environ: Environ) -> Sent:
    return complete(here, environ, llamacpp_native.infill, "")


@blueprint.route("/cors-proxy", methods=["GET", "POST"])
def cors_proxy() -> Response:
    """llama-server's way for its own page to reach other hosts. There is none here."""

    def view(here: Services, record: Record) -> Any:
        raise Forbidden("slotproxy fetches nothing from other hosts for a page")

    return plain(view, llamacpp_native.error)


@blueprint.post("/apply-template")
def apply_template() -> Response:
    """{messages, …} -> {prompt}: what a chat would be sent as."""

    def view(here: Services, record: Record) -> Any:
        asked = openai_chat.parse(body.read_json(request.environ, here.settings.max_body))
        return {"prompt": here.gateway.prompt(asked)}

    return plain(view, llamacpp_native.error)


@blueprint.get("/props")
def props() -> Response:
    def view(here: Services, record: Record) -> Any:
        registry = here.gateway.registry
        model, name = registry.resolve(fields.text(request.args, "model"))
        backends = registry.pool(model)
        caps = [b.caps for b in backends if b.caps is not None]
        told = next((c for c in caps if c.template), caps[0] if caps else None)
        sees, hears = any(c.vision for c in caps), any(c.audio for c in caps)
        return {
            "default_generation_settings": {
                "n_ctx": max((b.n_ctx for b in backends), default=0),
                "params": told.settings if told else {},
            },
            "total_slots": sum(here.gateway.scheduler.slots(b.name) for b in backends),
            "model_alias": name,
            "model_path": "",
            "modalities": {"vision": sees, "audio": hears},
            "endpoint_slots": True,
            "endpoint_props": False,
            "endpoint_metrics": here.settings.metrics,
            "chat_template": told.template if told else "",
            "bos_token": told.bos_token if told else "",
            "eos_token": told.eos_token if told else "",
            "build_info": told.build if told else "",
            "user_name": here.settings.user_name,
            "assistant_name": here.settings.ai_name,
        }

    return plain(view, llamacpp_native.error)


@blueprint.get("/slots")
def slots() -> Response:
    def view(here: Services, record: Record) -> Any:
        shown = seen.names(here, record.key)
        found = [{**slot, "backend": shown(slot["backend"])} for slot in _slots(here)]
        if request.args.get("fail_on_no_slot") and all(s["is_processing"] for s in found):
            raise NoBackend("no slot available", retry_after=1.0)
        return found

    return plain(view, llamacpp_native.error)


def _slots(here: Services) -> list[dict[str, Any]]:
    """All slots in a row, as the scheduler knows them. A llama-server with its RAM cache takes
    slots by itself and tells which at the end alone: it is right how many are busy there, not
    which."""
    known = {one.backend: one.slots for one in here.gateway.scheduler.view("", "").backends}
    out: list[dict[str, Any]] = []
    for backend in here.gateway.registry.backends.values():
        for slot in known.get(backend.name, ()):
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


@blueprint.post("/slots/<int:number>")
def slot_action(number: int) -> Response:
    def view(here: Services, record: Record) -> Any:
        if not record.key or record.key not in here.settings.admins:
            raise Forbidden("only an admin's key may change slots: see the setting admins")
        action = request.args.get("action", "")
        file = ""
        if action != "erase":
            asked = body.read_json(request.environ, here.settings.max_body)
            file = fields.text(asked, "filename")
            if not FILE.fullmatch(file):
                raise Invalid("filename", "must be a plain file name")
        slot = next((s for s in _slots(here) if s["id"] == number), None)
        if slot is None:
            raise NotFound(f"there is no slot {number}")
        tokens, size = act(
            here.gateway.registry, slot["backend"], action, slot["backend_slot"], file
        )
        return {"id_slot": number, "filename": file, "action": action, "n": tokens, "bytes": size}

    return plain(view, llamacpp_native.error)
