"""What pages and clients see of hosted models and of their memory. Times are seconds since 1970."""

from __future__ import annotations

import math
from collections.abc import Container
from itertools import zip_longest
from typing import Any, Literal

from ..scheduling.saved_slots import SavedTotals
from .memory_budget import Candidate, MemoryBudget, total
from .model import HostedModel
from .model_files import ModelFile
from .starting import Cause, LoadFailed

State = Literal["stopped", "waiting", "loading", "ready", "busy", "stopping", "failed"]


def state_of(model: HostedModel, place: int) -> State:
    """The state of a model that is in this place of the line."""
    if model.status == "loading":
        return "waiting" if place else "loading"
    if model.status == "failed":
        return "failed"
    if model.leaving:
        return "stopping"
    if model.status == "loaded":
        return "busy" if model.users else "ready"
    return "stopped"


def view_of(model: HostedModel, now: float, *, admin: bool = False) -> dict[str, Any]:
    """A model at this time, in seconds since 1970, as an admin or others see it. None is unknown,
    or never.

    `busy` of its `slots` are in use. `memory` and `cards` are bytes that it holds, or needs;
    `source` says how that is known. `loaded_at` and `load_seconds` are those of the last load,
    `ready_at` and `expires_at` are expected. `kept` are its saved slots. `context` are the
    tokens of a slot, None before the first load; `file` is what its GGUF file says."""
    model.needs.recall_once()
    needs, config, learned = model.needs, model.config, model.needs.learned
    place, wait = model.place() if model.status == "loading" else (0, 0.0)
    state = state_of(model, place)
    # To a tenth of a second, so that two looks agree.
    began_at = round(now - model.elapsed, 1) if state == "loading" else None
    ready_at = None
    if learned.loaded_at and began_at is not None:
        ready_at = round(began_at + model.takes, 1)
    elif learned.loaded_at and state == "waiting":
        ready_at = float(round(now + wait))
    left = model.left if state == "ready" else math.inf
    return {
        "name": model.name,
        "title": config.title,
        "description": config.description,
        "state": state,
        "busy": model.users,
        "slots": model.caps.slots if model.caps is not None else config.places,
        "place": place,
        "began_at": began_at,
        "ready_at": ready_at,
        "memory": needs.memory,
        "cards": needs.cards,
        "source": needs.source,
        "loaded_at": learned.loaded_at or None,
        "load_seconds": learned.seconds if learned.loaded_at else None,
        "expires_at": None if math.isinf(left) else float(round(now + left)),
        "ttl": None if math.isinf(model.ttl) else model.ttl,
        "pinned": model.pinned,
        "pinned_by_file": config.pin,
        "kept": model.slots.kept() if model.slots is not None else SavedTotals(),
        "failure": _failure(model, now, admin) if state == "failed" else None,
        "context": config.ctx_size or (model.caps.n_ctx if model.caps is not None else 0) or None,
        "file": _described(needs.file) if needs.file is not None else None,
    }


def _described(file: ModelFile) -> dict[str, Any]:
    """Bytes of all parts, and what the head says: "" and 0 are unknown. `context` are the tokens
    for which the model was made."""
    return {
        "size": file.size,
        "quantization": file.quantization,
        "parameters": file.text("general.size_label"),
        "family": file.family,
        "context": file.context,
    }


def room_of(room: MemoryBudget, named: Container[str]) -> dict[str, Any]:
    """The models that have room: `models` of at most `most_models`, None for any. `bars` are the
    machine's memory (`device` 0) and the graphics cards (from 1) that have a `limit` in bytes, or
    of which a model holds something. Models that are not `named` are segments without a name."""
    models, limits = room.residents, room.limits

    def phase(model: Candidate) -> str:
        if model.leaving:
            return "stopping"
        return "loading" if math.isinf(model.loaded_at) else "loaded"

    bars = []
    devices = zip_longest(limits.amounts, total(models), fillvalue=0)
    for device, (limit, used) in enumerate(devices):
        segments = [
            {
                "model": model.name if model.name in named else "",
                "size": model.need[device],
                "phase": phase(model),
            }
            for model in models
            if device < len(model.need) and model.need[device]
        ]
        if device == 0 or limit or used:
            bars.append({"device": device, "limit": limit or None, "segments": segments})
    return {"bars": bars, "models": len(models), "most_models": limits.models or None}


def _failure(model: HostedModel, now: float, admin: bool) -> dict[str, Any] | None:
    """`lines` are the last ones of its server, `retry_at` is when it may be loaded again."""
    error = model.error
    if error is None:
        return None
    cause: Cause = "too_large" if error.code == "model_too_large" else "other"
    if isinstance(error, LoadFailed):
        cause = error.cause
    summary, lines = (admin and error.private) or (error.message, error.details)
    retry_at = float(round(now + model.retry)) if model.retry else None
    return {"summary": summary, "cause": cause, "lines": lines, "retry_at": retry_at}
