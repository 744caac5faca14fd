"""Models that the gateway starts itself: the ``[[model]]`` tables of the settings file, and the
files of --models-dir."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ..core import late_binding
from . import macros
from .validators import each_in_bytes, in_bytes, naming, of_table, size, sizes, tables, url

PORT, PID = "${PORT}", "${PID}"
LOOPBACK = f"http://127.0.0.1:{PORT}"
MAX_NAME = 200  # characters of a model's name
MAX_FILES = 1000  # models of a folder
HTTP_PLACES = 10  # parallel requests to a server of the kind `http`, as in llama-swap
PROTECTED = ("model", "stream")  # fields of a request that no table sets or removes
Text = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
_Seconds = Annotated[float, Meta(ge=0, le=86400 * 365)]
_Limit = Annotated[float, Meta(gt=0, le=86400)]


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A ``[[model]]`` table of the file: a model whose server is a command of the operator.

    `command` and `stop` are words for the system, not for a shell; in the file, a text is split
    like a shell's. ``${PORT}`` in `command`, `url` and the values of `environment` is the port on
    which the server must listen, ``${PID}`` in `stop` its process. A server of the kind `openai`
    has OpenAI's API at its `url`, and one of the kind `http` any other: requests are forwarded."""

    name: Text
    command: tuple[str, ...]
    aliases: tuple[Text, ...] = ()
    environment: dict[str, str] = {}
    folder: str = ""
    check: str = ""  # the path that answers 200 once it is ready; "": any answer but 503
    ttl: _Seconds = 0.0  # idle seconds after which it is stopped; 0: never
    start_timeout: _Limit = 300.0
    stop_timeout: _Limit = 10.0
    stop: tuple[str, ...] = ()
    slots: Annotated[int, Meta(ge=0, le=1024)] = 0
    ctx_size: Annotated[int, Meta(ge=0)] = 0
    memory: str = ""  # as 4GiB; "": estimated, then measured
    gpu_memory: str = ""  # the same of all its graphics cards, or of each, as 4GiB,2GiB
    pin: bool = False  # it never gives way to another model
    unloads: tuple[Text, ...] = ()  # models that it does not run beside: they end when it loads
    beside: tuple[tuple[Text, ...], ...] = ()  # sets of others, one of which may be loaded; (): any
    save_slots: bool = False  # add the flags with which a llama-server saves its slots
    kind: Literal["llamacpp", "openai", "http", "whisper"] = "llamacpp"
    url: str = LOOPBACK
    server_model: str = ""  # its name at `url`; "": the only one there, or that of the request
    preload: bool = False  # load it when the gateway starts
    concurrency: Annotated[int, Meta(ge=0, le=1024)] = 0  # most requests at once; 0: any
    title: str = ""
    description: str = ""
    unlisted: bool = False
    list_aliases: bool = False  # lists of models have its aliases as well
    loading_state: bool = False  # streams of chats show its load as reasoning
    metadata: dict[str, Any] = {}  # shown with the model; ${PORT} is its port while it is loaded
    strip: tuple[str, ...] = ()  # fields that are removed from requests
    set: dict[str, Any] = {}  # fields that are set in requests
    set_by_alias: dict[str, dict[str, Any]] = {}  # the same for those that name an alias
    on_overflow: Literal["refuse", "compact"] | None = None
    loops: Literal["auto", "off", "end", "mend"] | None = None
    max_reasoning_tokens: Annotated[int, Meta(ge=0)] | None = None
    late_binding: tuple[str, ...] = ()  # beginnings of lines, see `core.late_binding`

    @property
    def has_program(self) -> bool:
        """Whether the program of its command exists and may be run."""
        program = self.command[0]
        path = Path(self.folder, program) if "/" in program else program
        return shutil.which(path) is not None

    @property
    def program_trouble(self) -> str:
        """What is wrong with a program that may not be run."""
        program = self.command[0]
        if "/" not in program:
            return f"{program} is not in PATH"
        exists = Path(self.folder, program).exists()
        return f"{program} {'is not an executable file' if exists else 'does not exist'}"

    @property
    def makes_text(self) -> bool:
        return self.kind in ("llamacpp", "openai")

    @property
    def places(self) -> int:
        """The parallel requests that the table sets, 0 if the server is asked."""
        if self.kind == "http":  # nothing to ask
            return self.slots or self.concurrency or HTTP_PLACES
        return min(self.slots, self.concurrency) if self.concurrency else self.slots

    def runs_beside(self, others: Set[str]) -> bool:
        """Whether it may be loaded while these others are, as far as its table says."""
        is_set = not self.beside or any(others <= {*names} for names in self.beside)
        return is_set and others.isdisjoint(self.unloads)

    @property
    def has_preset(self) -> bool:
        """Whether it changes requests."""
        return bool(self.strip or self.set or self.set_by_alias)

    @property
    def memory_bytes(self) -> int:
        return in_bytes(self.memory)

    @property
    def gpu_memory_bytes(self) -> tuple[int, ...]:
        return each_in_bytes(self.gpu_memory)

    def __repr__(self) -> str:  # the command and the environment may contain keys
        return f"ModelConfig({self.name!r})"


class ImportedConfig(msgspec.Struct, frozen=True):
    """What a configuration file of another program says."""

    values: dict[str, Any]  # settings by name
    notes: Sequence[str] = ()  # about parts that are not supported
    models_max: int = 0  # models at once, if the operator bounds neither memory nor number; 0: any
    # Those that others leave alone: pinned if the operator bounds them; `unloads`, `beside` end.
    persistent: frozenset[str] = frozenset()

    def bounded(self) -> tuple[ModelConfig, ...]:
        """The models if the operator bounds memory or number: what fits stays loaded."""
        return tuple(
            msgspec.structs.replace(
                model, pin=model.pin or model.name in self.persistent, unloads=(), beside=()
            )
            for model in self.values.get("model", ())
        )


def read(
    raw: Any, shared: Mapping[str, macros.Value] = {}, environ: Mapping[str, str] = {}
) -> tuple[ModelConfig, ...]:
    """The models; `shared` are the macros of all. Raises ValueError, which names the model."""

    def filled(table: dict[str, Any]) -> Any:
        own = macros.defined(table.pop("macros", {}), shared)
        values = macros.for_model(str(table.get("name")), own, environ)
        return macros.filled(table, values, environ)

    return checked(tables(raw, "model", filled))


def checked(filled: Iterable[dict[str, Any]]) -> tuple[ModelConfig, ...]:
    """The models of tables whose macros are filled in. Raises ValueError."""
    models = tables([*filled], "model", _model)
    names = [name for model in models for name in (model.name, *model.aliases)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two models have the name or alias {name!r}")
    own_names = {model.name for model in models}
    for model in models:
        if unknown := {*chain(model.unloads, *model.beside)} - own_names:
            why = f"there is no model {min(unknown)!r}"
            raise ValueError(f"{model.name!r}: unloads or beside: {why}")
    return models


def _model(table: dict[str, Any]) -> ModelConfig:
    texts = {
        key: words(table[key]) for key in ("command", "stop") if isinstance(table.get(key), str)
    }
    model = of_table(ModelConfig, {**table, **texts})
    _check(model)
    return model


def _check(model: ModelConfig) -> None:
    if not all(name.isprintable() for name in (model.name, *model.aliases)):
        raise ValueError("name: contains a control character")
    if not model.command:
        raise ValueError("command: expected a program and its arguments")
    names_port = any(PORT in word for word in (*model.command, *model.environment.values()))
    if PORT in model.url and not names_port:
        why = "the port for the server to listen on; or set url if its port never changes"
        raise ValueError(f"command: must contain {PORT}, {why}")
    if model.server_model and model.kind in ("llamacpp", "whisper"):
        raise ValueError('server_model: needs kind = "openai" or "http"')
    for name in (*model.set, *model.strip, *chain(*model.set_by_alias.values())):
        if name in PROTECTED:
            raise ValueError(f"set, strip: {name} cannot be changed")
    for alias in model.set_by_alias:
        if alias not in (model.name, *model.aliases):
            raise ValueError(f"set_by_alias: {alias!r} is not one of the aliases")
    if model.check and not re.fullmatch(r"/[!-~]*", model.check):
        raise ValueError(f"check: expected a path like /health, got {model.check!r}")
    for key, check in (("memory", size), ("gpu_memory", sizes), ("url", url)):
        with naming(key):
            check(getattr(model, key).replace(PORT, "1"))
    if any("\0" in word for word in (*model.command, *model.stop, model.folder)):
        raise ValueError("command: contains a NUL character")
    for line in model.late_binding:
        with naming("late_binding"):
            late_binding.rule(line)
    for name, value in model.environment.items():
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"environment: {name!r} is not a variable that a process can have")


def words(command: str) -> tuple[str, ...]:
    """Split a command as a shell does; a backslash continues a line. Raises ValueError."""
    with naming("command"):
        return tuple(shlex.split(command.replace("\\\n", " ")))


# -- the models of --models-dir: GGUF files, and folders of files belonging together, laid out as in
# llama-server's router mode: a model with a projector, or in parts, may have a folder of its name


def of_folder(folder: str, server: str, ttl: float) -> tuple[ModelConfig, ...]:
    """A model for each file, or folder of files, named by it. `server` is the command of a
    llama-server, without model, host and port. A folder may be empty, until a model is downloaded.
    Raises ValueError."""
    own = words(server)
    if not own:
        raise ValueError("--llama-server: expected a program")
    models: list[ModelConfig] = []
    try:
        if not Path(folder).is_dir():
            raise ValueError(f"{folder} is not a folder")
        for name, files in _all(Path(folder)):
            if not (name.isprintable() and len(name) <= MAX_NAME):
                raise ValueError(f"{name!r}: rename this, it cannot be the name of a model")
            if len(models) == MAX_FILES:
                raise ValueError(f"{folder} contains more than {MAX_FILES} models")
            command = (*own, *files, "--host", "127.0.0.1", "--port", PORT)
            models.append(ModelConfig(name=name, command=command, ttl=ttl, save_slots=True))
    except OSError as error:
        raise ValueError(f"cannot read {folder}: {error.strerror}") from None
    return tuple(models)


def of_files(folder: Path, eyes: bool = True) -> list[tuple[str, tuple[str, ...]]]:
    """The name of each model in this very folder, and the flags with its file and projector."""
    models = []
    projector: tuple[str, ...] = ()
    for path in sorted(folder.glob("*.gguf")):
        name = re.sub(r"-00001-of-\d{5}$", "", path.stem)
        if name.startswith("mmproj"):
            projector = projector or ("--mmproj", str(path))
        elif not re.search(r"-\d{5}-of-\d{5}$", name):
            models.append((name, path))
    return [(name, ("-m", str(path), *(projector if eyes else ()))) for name, path in models]


def files_of(folder: str) -> dict[str, list[Path]]:
    """The files of each model that --models-dir has, by its name: without the further parts of a
    split one, and a projector that serves other models too. Raises OSError."""
    return {
        name: [Path(path), *(Path(file) for file in projector[1:] if "/" not in name)]
        for name, (_, path, *projector) in _all(Path(folder))
    }


def _all(folder: Path) -> Iterator[tuple[str, Sequence[str]]]:
    """The name of each model, and the flags with its files."""
    yield from of_files(folder, eyes=False)
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        models = of_files(inner)
        for name, flags in models:
            yield inner.name if len(models) == 1 else f"{inner.name}/{name}", flags
