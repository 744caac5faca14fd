"""What llama-server says in router mode: the list of its models, and the events of ``/models/sse``.

The forms are those of llama.cpp's tools/server/server-models.cpp and README ("Using multiple
models"). Nothing is trusted: names are bounded in length and number, and what has another type than
it should counts as not said.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from msgspec import Struct

from ..core.decoding import decoded

MOST = 1000  # models that are looked at
LONGEST = 300  # characters of a model's name
SERVED = ("unloaded", "loading", "loaded", "sleeping")
PRESENT = ("loading", "loaded", "sleeping")  # those that have a process, so that they take room


class Listed(Struct, frozen=True, kw_only=True):
    """A model as the router lists it.

    `status` is unloaded, loading, loaded or sleeping, or failed: its last process ended with
    `exit_code`. `instance` differs from one process of the model to the next. `n_vocab`:
    how many token ids it has, 0 where that is not told, as of a model that is not loaded."""

    name: str
    status: str
    instance: str = ""
    exit_code: int = 0
    aliases: tuple[str, ...] = ()
    vision: bool = False
    audio: bool = False
    n_vocab: int = 0


class Event(Struct, frozen=True, kw_only=True):
    """Something happened to a model, "*" for all. `status` "" where it is not about that;
    `progress` is the part that is loaded, from 0 to 1, None where it is not told."""

    name: str
    status: str = ""
    progress: float | None = None


def listed(answer: object) -> dict[str, Listed] | None:
    """The models of an answer of /v1/models; None where it is not a router's."""
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list):
        return None
    found: dict[str, Listed] = {}
    for entry in data[:MOST]:
        status = as_dict(as_dict(entry).get("status"))
        if not status:
            return None
        one = _listed(entry, status)
        if one is not None:
            found[one.name] = one
    return found


def _listed(entry: dict[str, Any], status: dict[str, Any]) -> Listed | None:
    """None for what cannot be asked for: a model that is being downloaded, or has no name."""
    name, value = entry.get("id"), status.get("value")
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST or value not in SERVED:
        return None
    code = status.get("exit_code")
    modalities = as_dict(entry.get("architecture")).get("input_modalities")
    modalities = modalities if isinstance(modalities, list) else []
    vocab = as_dict(entry.get("meta")).get("n_vocab")
    failed = status.get("failed") is True and value == "unloaded"
    return Listed(
        name=name,
        status="failed" if failed else value,
        instance=_port(status.get("args")),
        exit_code=code if type(code) is int else 0,
        aliases=_texts(entry.get("aliases")),
        vision="image" in modalities,
        audio="audio" in modalities,
        n_vocab=vocab if type(vocab) is int and vocab > 0 else 0,
    )


def _port(args: object) -> str:
    """Each process of a model listens on a port of its own."""
    words = _texts(args)
    return next((port for word, port in pairwise(words) if word == "--port"), "")


def event(payload: bytes) -> Event | None:
    """One event of /models/sse; None for what is none."""
    try:
        told = as_dict(decoded(payload))
    except ValueError:
        return None
    name, data = told.get("model"), as_dict(told.get("data"))
    if not isinstance(name, str):
        return None
    status, progress = data.get("status"), as_dict(data.get("progress"))
    return Event(
        name=name,
        status=status if isinstance(status, str) else "",
        progress=_part(progress.get("value"), progress.get("current"), progress.get("stages")),
    )


def _part(value: object, stage: object, stages: object) -> float | None:
    """The part of all that is loaded: `value` is that of a stage, and they come in order."""
    names = _texts(stages)
    if not isinstance(value, (int, float)) or not isinstance(stage, str) or stage not in names:
        return None
    return (names.index(stage) + min(1.0, max(0.0, value))) / len(names)


def room(props: object) -> int:
    """How many models the router of these /props has loaded at once; 0 for any number."""
    told = as_dict(props).get("max_instances")
    return told if type(told) is int and told > 0 else 0


def forgotten(old: Listed, new: Listed) -> bool:
    """Whether the slots that a model had at one look hold nothing any more at the next."""
    if old.status == "loaded":
        return new.status != "loaded" or new.instance != old.instance
    # It came and went in between.
    return new.status != "loaded" and new.instance != old.instance


def as_dict(value: object) -> dict[str, Any]:
    """The value, if it is an object; else an empty one."""
    return value if isinstance(value, dict) else {}


def _texts(value: object) -> tuple[str, ...]:
    found = value if isinstance(value, list) else []
    return tuple(one for one in found if isinstance(one, str))
