"""llama-server's ``models.ini`` (its flag ``--models-preset``), as its README of August 2026
describes it. Each section is a model, its keys are flags or environment variables, ``[*]`` has the
defaults.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from . import models
from .models import PORT, ImportedConfig, ModelConfig
from .validators import naming

# Flags of one dash are short, and have no hyphen inside. These are short, and have two dashes.
_TWO_DASHES = frozenset(
    "fit host keep lora mmap numa path perf poll port prio rpc seed temp ui".split()
)
_ONE_DASH = re.compile(r"[A-Za-z]{1,4}|ncffn|ctxcp|cmoed|hfrv|nocb|ncmoe|hfdv?|cpent")
# Flags without a value, which may be written as on, off, 1 or 0 too.
_SWITCHES = frozenset(
    """cb cont-batching context-shift embedding embeddings escape jinja kv-offload kv-unified kvo
    kvu metrics mlock mmap op-offload perf props repack rerank reranking slots spm-infill swa-full
    ui verbose warmup webui""".split()
)
# Flags with a value that may be true or false.
_VALUED = frozenset("fa flash-attn fit log-colors".split())
_TRUE, _FALSE = ("true", "on", "enabled", "1"), ("false", "off", "disabled", "0")
_OURS = frozenset(
    """api-key api-key-file dedup-cache-models host models-autoload models-dir models-max
    models-preset port reuse-port ssl-cert-file ssl-key-file""".split()
)
_FILES = frozenset(
    """LLAMA_ARG_DOCKER_REPO LLAMA_ARG_HF_REPO LLAMA_ARG_MODEL LLAMA_ARG_MODEL_URL docker-repo dr hf
    hf-repo hfr m model model-url mu""".split()
)

Section = dict[str, str]


def read(text: str, server: str, folder: Sequence[ModelConfig] = ()) -> ImportedConfig:
    """Read the presets. `server` is the command of llama-server, `folder` are the models of
    --models-dir: their sections may add to them, and ``[*]`` counts for all. Raises ValueError."""
    sections = _sections(text)
    shared = sections.pop("*", {})
    files = {model.name: model for model in folder}
    sections |= {name: {} for name in files if name not in sections}
    if not sections:
        raise ValueError("expected a [section] for each model")
    lacking: set[str] = set()
    program = models.words(server)
    tables = []
    for name, own in sections.items():
        keys = {**{key: value for key, value in shared.items() if key not in own}, **own}
        lacking.update(key for key in keys if key in _OURS)
        with naming(f"[{name[:100]}]"):
            tables.append(_table(name, keys, program, files.get(name)))
    notes = [f"set by slotproxy and ignored: {', '.join(sorted(lacking))}"] if lacking else []
    return ImportedConfig({"model": models.checked(tables)}, notes)


def _table(
    name: str, keys: Section, program: Sequence[str], file: ModelConfig | None
) -> dict[str, Any]:
    """A `[[model]]` table. `file` is the model of this name in the folder."""
    table: dict[str, Any] = {"name": name, "environment": {}, "save_slots": True}
    words = [*program, "--host", "127.0.0.1", "--port", PORT]
    if not _FILES & keys.keys():
        if file is not None:
            words, table["ttl"] = [*file.command], file.ttl
        elif "/" in name:
            words += ["-hf", name]
        else:
            raise ValueError("set model or hf-repo, or put its file into --models-dir")
    for key, value in keys.items():
        if key in _OURS:
            continue
        if key in ("alias", "a"):
            aliases = map(str.strip, value.split(","))
            table["aliases"] = [alias for alias in aliases if alias != name]
        elif key == "load-on-startup":
            table["preload"] = _switch(key, value)
        elif key == "stop-timeout":
            table["stop_timeout"] = max(0.1, _seconds(key, value))
        elif key == "sleep-idle-seconds":
            table["ttl"] = max(0.0, _seconds(key, value))  # -1: never
        elif re.fullmatch(r"[A-Z][A-Z0-9_]*", key):
            table["environment"][key] = value
        else:
            words += _flag(key, value)
    return {**table, "command": words}


def _flag(key: str, value: str) -> list[str]:
    positive = key.removeprefix("no-")
    is_switch = positive in _SWITCHES or value.lower() in ("true", "false")
    if key not in _VALUED and is_switch and value.lower() in (*_TRUE, *_FALSE):
        if value.lower() in _TRUE:
            return [_dashed(key)]
        return [f"--{positive}" if key != positive else f"--no-{key}"]
    return [_dashed(key), value]


def _dashed(key: str) -> str:
    is_short = _ONE_DASH.fullmatch(key) and key not in _TWO_DASHES
    return f"-{key}" if is_short else f"--{key}"


def _switch(key: str, value: str) -> bool:
    if value.lower() not in (*_TRUE, *_FALSE):
        raise ValueError(f"{key}: expected true or false, got {value[:100]!r}")
    return value.lower() in _TRUE


def _seconds(key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{key}: expected a number, got {value[:100]!r}") from None


def _sections(text: str) -> dict[str, Section]:
    """The keys of each section; of a key that is there twice, the last value."""
    sections: dict[str, Section] = {}
    keys: Section = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line[0] in ";#":
            continue
        if head := re.fullmatch(r"\[(.+)\]", line):
            keys = sections.setdefault(head[1].strip(), {})
            continue
        key, mark, value = (part.strip() for part in line.partition("="))
        if not (mark and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", key)):
            raise ValueError(f"line {number}: expected KEY = VALUE or [NAME]")
        if sections:
            keys[key] = value
        elif (key, value) != ("version", "1"):
            raise ValueError(f"line {number}: expected version = 1, or a [NAME] first")
    return sections
