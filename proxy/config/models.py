"""The ``[[model]]`` tables of the settings file: models that the gateway starts itself."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from .forms import in_bytes, size

PORT, PID = "${PORT}", "${PID}"
MAX_FILES = 1000  # models of a folder
MAX_NAME = 200  # characters of a model's name
_Text = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
_Seconds = Annotated[float, Meta(ge=0, le=86400 * 365)]
_Limit = Annotated[float, Meta(gt=0, le=86400)]


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A ``[[model]]`` table of the file: a model whose server is a command of the operator.

    `command` and `stop` are words for the system, not for a shell; in the file, a text is split
    like a shell's. ``${PORT}`` in `command` and in the values of `environment` is the port on which
    the server must listen, ``${PID}`` in `stop` its process. `check` is the path that answers 200
    once the server is ready; empty: any answer but 503. `ttl` is after how many idle seconds the
    server is stopped, 0 for never. `memory` is what it needs, as ``4GiB``; empty: estimated, then
    measured. `pin`: it never gives way to another model."""

    name: _Text
    command: tuple[str, ...]
    aliases: tuple[_Text, ...] = ()
    environment: dict[str, str] = {}
    folder: str = ""
    check: str = ""
    ttl: _Seconds = 0.0
    start_timeout: _Limit = 300.0
    stop_timeout: _Limit = 10.0
    stop: tuple[str, ...] = ()
    slots: Annotated[int, Meta(ge=0, le=1024)] = 0
    ctx_size: Annotated[int, Meta(ge=0)] = 0
    memory: str = ""
    pin: bool = False

    @property
    def memory_bytes(self) -> int:
        return in_bytes(self.memory)

    def __repr__(self) -> str:  # the command and the environment may contain keys
        return f"ModelConfig({self.name!r})"


def read(raw: Any) -> tuple[ModelConfig, ...]:
    """The models of the file. Raises ValueError, whose message names the model."""
    if not isinstance(raw, list) or not all(isinstance(item, dict) for item in raw):
        raise ValueError("expected [[model]] tables")
    models = tuple(_model(item, number) for number, item in enumerate(raw, start=1))
    names = [name for model in models for name in (model.name, *model.aliases)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two models have the name or alias {name!r}")
    return models


def _model(raw: dict[str, Any], number: int) -> ModelConfig:
    name = raw.get("name")
    source = repr(name) if isinstance(name, str) and name else str(number)
    values = dict(raw)
    try:
        for key in ("command", "stop"):
            if isinstance(values.get(key), str):
                values[key] = words(values[key])
        model = msgspec.convert(values, ModelConfig)
        _check(model)
    except msgspec.ValidationError as error:
        raise ValueError(f"{source}: {error}") from None
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    return model


def _check(model: ModelConfig) -> None:
    if not all(name.isprintable() for name in (model.name, *model.aliases)):
        raise ValueError("name: contains a control character")
    if not model.command:
        raise ValueError("command: expected a program and its arguments")
    if not any(PORT in word for word in (*model.command, *model.environment.values())):
        raise ValueError(f"command: must contain {PORT}, the port for the server to listen on")
    if model.check and not re.fullmatch(r"/[!-~]*", model.check):
        raise ValueError(f"check: expected a path like /health, got {model.check!r}")
    try:
        size(model.memory)
    except ValueError as error:
        raise ValueError(f"memory: {error}") from None
    if any("\0" in word for word in (*model.command, *model.stop, model.folder)):
        raise ValueError("command: contains a NUL character")
    for name, value in model.environment.items():
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"environment: {name!r} is not a variable that a process can have")


def of_folder(folder: str, server: str, ttl: float) -> tuple[ModelConfig, ...]:
    """A model for each GGUF file of a folder, named by its file. `server` is the command of a
    llama-server, without model, host and port. Projectors (mmproj) and all but the first part of a
    split model are no models. Raises ValueError."""
    try:
        paths = sorted(Path(folder).glob("*.gguf"))
    except OSError as error:
        raise ValueError(f"cannot read {folder}: {error.strerror}") from None
    if not Path(folder).is_dir():
        raise ValueError(f"{folder} is not a folder")
    own = words(server)
    if not own:
        raise ValueError("--llama-server: expected a program")
    models = []
    for path in paths:
        name = re.sub(r"-00001-of-\d{5}$", "", path.stem)
        if name.startswith("mmproj") or re.search(r"-\d{5}-of-\d{5}$", name):
            continue
        if not (name.isprintable() and len(name) <= MAX_NAME):
            raise ValueError(f"{path.name!r}: rename this file, its name cannot be a model's")
        command = (*own, "-m", str(path), "--host", "127.0.0.1", "--port", PORT)
        models.append(ModelConfig(name=name, command=command, ttl=ttl))
    if not models:
        raise ValueError(f"{folder} contains no .gguf file")
    if len(models) > MAX_FILES:
        raise ValueError(f"{folder} contains more than {MAX_FILES} models")
    return tuple(models)


def words(command: str) -> tuple[str, ...]:
    """Split a command as a shell does; a backslash continues a line. Raises ValueError."""
    try:
        return tuple(shlex.split(command.replace("\\\n", " ")))
    except ValueError as error:
        raise ValueError(f"command: {error}") from None
