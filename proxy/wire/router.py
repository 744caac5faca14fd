"""llama-server's router mode: the list of models, and the events of ``/models/sse`` (llama.cpp's
tools/server/server-models.cpp). Names are bounded, and values of the wrong type count as missing.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from msgspec import Struct

MOST = 1000  # models in a list, at most
INT32 = 2**31 - 1  # servers count in 32 bits
LONGEST = 300  # characters of a model's name
SERVED = ("unloaded", "loading", "loaded", "sleeping")
PRESENT = ("loading", "loaded", "sleeping")  # states with a process, which takes room


class Listed(Struct, frozen=True, kw_only=True):
    """A model as the router lists it. `status` may also be failed: its last process ended with
    `exit_code`. `instance` differs between two processes. `n_vocab` is 0 if not reported."""

    name: str
    status: str
    instance: str = ""
    exit_code: int = 0
    aliases: tuple[str, ...] = ()
    vision: bool = False
    audio: bool = False
    n_vocab: int = 0


def listed(answer: object) -> dict[str, Listed] | None:
    """The models in an answer of /v1/models; None if it is not a router's."""
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list):
        return None
    models: dict[str, Listed] = {}
    for entry in data[:MOST]:
        status = as_dict(as_dict(entry).get("status"))
        if not status:
            return None
        model = _listed(entry, status)
        if model is not None:
            models[model.name] = model
    return models


def _listed(entry: dict[str, Any], status: dict[str, Any]) -> Listed | None:
    """None for a model that cannot be requested: it is being downloaded, or has no name."""
    name, value = entry.get("id"), status.get("value")
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST or value not in SERVED:
        return None
    code, args = status.get("exit_code"), _texts(status.get("args"))
    modalities = as_dict(entry.get("architecture")).get("input_modalities")
    modalities = modalities if isinstance(modalities, list) else []
    failed = status.get("failed") is True and value == "unloaded"
    return Listed(
        name=name,
        status="failed" if failed else value,
        # The port differs between processes.
        instance=next((port for word, port in pairwise(args) if word == "--port"), ""),
        exit_code=code if type(code) is int else 0,
        aliases=_texts(entry.get("aliases")),
        vision="image" in modalities,
        audio="audio" in modalities,
        n_vocab=as_count(as_dict(entry.get("meta")).get("n_vocab")),
    )


def room(props: object) -> int:
    """The maximum number of loaded models, from a router's /props; 0 for any number."""
    return as_count(as_dict(props).get("max_instances"))


def forgotten(old: Listed, new: Listed) -> bool:
    """Whether the slots that a model had in one list have lost their content in the next."""
    if old.status == "loaded":
        return new.status != "loaded" or new.instance != old.instance
    # The process came and went between the two lists.
    return new.status != "loaded" and new.instance != old.instance


def as_dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def as_count(value: object) -> int:
    """The value if it is a positive integer that a server can mean, otherwise 0."""
    return value if type(value) is int and 0 < value <= INT32 else 0


def _texts(value: object) -> tuple[str, ...]:
    items = value if isinstance(value, list) else []
    return tuple(item for item in items if isinstance(item, str))
