"""The state of hosted models and of the memory that they share, as pages and clients see it.

Plain values: a model and the room are read once, everything else is computed from that. Times are
seconds since 1970, so that a view changes only if its model does.
"""

from __future__ import annotations

import math
from itertools import zip_longest
from typing import Literal

from msgspec import Struct

from ..scheduling.saved_slots import Kept
from .memory_budget import Amounts, Candidate, MemoryBudget, total
from .model import HostedModel
from .need import Source
from .starting import Cause, LoadFailed

State = Literal["stopped", "waiting", "loading", "ready", "busy", "stopping", "failed"]
Phase = Literal["loading", "loaded", "stopping"]


class Loading(Struct, frozen=True):
    """A model that a load was asked for: its place in the line of models without room, 0 if it has
    room; the seconds since its server began to load; and those until it is loaded, None before its
    first load."""

    place: int
    elapsed: float
    left: float | None

    @property
    def part(self) -> float | None:
        """The loaded part, from 0 to 1, by the time that the last load took; None if it waits for
        room, or was never loaded."""
        if self.place or self.left is None:
            return None
        return self.elapsed / max(self.elapsed + self.left, 1e-9)


class Failure(Struct, frozen=True):
    """Why a model is not loaded. `lines` are the last ones that its server printed, `retry_at` is
    when it may be loaded again, None for now."""

    summary: str
    cause: Cause
    lines: str = ""
    retry_at: float | None = None


class ModelView(Struct, frozen=True, kw_only=True):
    """A model. `busy` of its `slots` are in use; `slots` is 0 until they are known.

    Of one that waits or loads, `began_at` is when its server began to load and `ready_at` when it
    is expected to be loaded, None if unknown. `memory` and `cards` are bytes that it holds, or
    needs; `source` says how that is known. `loaded_at` and `load_seconds` are those of the last
    load. `expires_at` is when an idle model is unloaded, `ttl` after how many idle seconds, None
    for never. `kept` are its saved slots."""

    name: str
    title: str
    description: str
    state: State
    busy: int
    slots: int
    place: int
    began_at: float | None
    ready_at: float | None
    memory: int
    cards: Amounts
    source: Source
    loaded_at: float | None
    load_seconds: float | None
    expires_at: float | None
    ttl: float | None
    pinned: bool
    pinned_by_file: bool
    kept: Kept
    failure: Failure | None


class Segment(Struct, frozen=True):
    """What a model holds of a memory, or has reserved while it loads."""

    model: str
    size: int
    phase: Phase


class MemoryBar(Struct, frozen=True):
    """The machine's memory (`device` 0) or that of a graphics card (from 1): its bytes that models
    may hold, None for any number, and what they hold."""

    device: int
    limit: int | None
    segments: tuple[Segment, ...]


class RoomView(Struct, frozen=True):
    """What is loaded, and how much may be: `models` of at most `most_models`, None for any."""

    bars: tuple[MemoryBar, ...]
    models: int
    most_models: int | None


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


def loading(model: HostedModel) -> Loading | None:
    """The progress of a model that is asked for, None of others."""
    if model.status != "loading":
        return None
    place, left = model.place()
    return Loading(place, model.elapsed, left if model.needs.is_learned else None)


def view_of(model: HostedModel, now: float) -> ModelView:
    """A model at this time, in seconds since 1970."""
    model.needs.recall_once()
    needs, config = model.needs, model.config
    waits = loading(model)
    place = waits.place if waits is not None else 0
    state = state_of(model, place)
    began_at, ready_at = _times(waits, model.takes, now)
    left = model.left if state == "ready" else math.inf
    return ModelView(
        name=model.name,
        title=config.title,
        description=config.description,
        state=state,
        busy=model.users,
        slots=model.caps.slots if model.caps is not None else config.places,
        place=place,
        began_at=began_at,
        ready_at=ready_at,
        memory=needs.memory,
        cards=needs.cards,
        source=needs.source,
        loaded_at=needs.loaded_at or None,
        load_seconds=needs.seconds if needs.is_learned else None,
        expires_at=None if math.isinf(left) else float(round(now + left)),
        ttl=None if math.isinf(model.ttl) else model.ttl,
        pinned=model.pinned,
        pinned_by_file=config.pin,
        kept=model.slots.kept() if model.slots is not None else Kept(),
        failure=_failure(model, now) if state == "failed" else None,
    )


def room_of(room: MemoryBudget) -> RoomView:
    """The models that have room, and the bounds: a bar for each device that has a bound, or of
    which a model holds something."""
    models = room.residents
    limits = room.limits

    def phase(model: Candidate) -> Phase:
        if model.leaving:
            return "stopping"
        return "loading" if math.isinf(model.loaded_at) else "loaded"

    bars = []
    devices = zip_longest(limits.amounts, total(models), fillvalue=0)
    for device, (limit, used) in enumerate(devices):
        segments = tuple(
            Segment(model.name, need[device], phase(model))
            for model in models
            if device < len(need := model.need) and need[device]
        )
        if device == 0 or limit or used:
            bars.append(MemoryBar(device, limit or None, segments))
    return RoomView(tuple(bars), len(models), limits.models or None)


def _times(waits: Loading | None, takes: float, now: float) -> tuple[float | None, float | None]:
    """When a load began and when it is expected to end. To a tenth of a second, so that two looks
    agree."""
    if waits is None:
        return None, None
    if waits.place:
        return None, None if waits.left is None else float(round(now + waits.left))
    began = round(now - waits.elapsed, 1)
    return began, None if waits.left is None else round(began + takes, 1)


def _failure(model: HostedModel, now: float) -> Failure | None:
    error = model.error
    if error is None:
        return None
    cause: Cause = "too_large" if error.code == "model_too_large" else "other"
    summary, lines = error.message, ""
    if isinstance(error, LoadFailed):
        summary, cause, lines = error.summary, error.cause, error.lines
    retry_at = float(round(now + model.retry)) if model.retry else None
    return Failure(summary, cause, lines, retry_at)
