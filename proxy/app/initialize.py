"""``slotproxy init``: writes a settings file for what is found on this machine, or for what a
configuration file of another program says."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jinja2 import Environment
from msgspec import Struct
from msgspec.structs import fields

from ..config import PORT, ImportedConfig, SettingsError, load, of_other_program
from ..config.data_folder import data_folder
from ..runtime.installation import templates
from .discovery import Found, look

LISTED = 20  # models that get a table of their own
SHARE = 0.75  # of the machine's memory, for models that slotproxy starts
GIB = 1 << 30
CONTEXTS = ((7, 4096), (15, 8192), (30, 16384))  # tokens that are proposed below so many GiB


class InitError(Exception):
    """The file cannot be written. The message is one line for the user."""


def write(
    file: str,
    agree: Callable[[str], bool],
    environ: Mapping[str, str],
    find: Callable[[Mapping[str, str], Path], Found] = look,
) -> str:
    """Write `file`, if there is none or `agree` says yes. Returns what to say. Raises InitError."""
    target = _target(file, agree)
    findings = find(environ, Path.home())
    _put(target, text(findings, str(target)))
    rows = [("server", f"{server.url}  {server.described}") for server in findings.servers]
    rows += [("models", f"{files.folder}  {len(files.models)} GGUF") for files in findings.files]
    rows += [("card", f"{card.name}, {card.memory / GIB:.1f} GiB") for card in findings.cards]
    if findings.llama_server:
        rows.append(("program", findings.llama_server))
    lines = ["found:" if rows else "found no model server, no GGUF file and no llama-server"]
    lines += [f"  {name:<8} {what}" for name, what in rows]
    return "\n".join([*lines, *_missing(findings, target), *_next(target)])


def _missing(findings: Found, target: Path) -> Iterator[str]:
    """What is missing to serve models, and what to do about it."""
    if findings.files and not findings.llama_server:
        yield "missing: llama-server is not on the PATH, so nothing serves the GGUF files"
        yield "  put it on the PATH and run `slotproxy init` again, or write the path of your"
        yield f"  llama-server into {target} and remove the # before the lines of the models"
    elif findings.llama_server and not (findings.files or findings.servers):
        yield "missing: llama-server is there, but no GGUF file for it"
        yield "  put one into the folder models and run `slotproxy init` again"


def convert(
    source: str, file: str, agree: Callable[[str], bool], environ: Mapping[str, str]
) -> str:
    """Write `file` with what `source` says, of another program. Raises InitError."""
    target = _target(file, agree)
    try:
        read = of_other_program(source, environ)
    except SettingsError as error:
        raise InitError(str(error)) from error
    _put(target, of_foreign(read, source, str(target)))
    notes = [f"note: {note}" for note in read.notes]
    return "\n".join([*notes, *_next(target)])


def _target(file: str, agree: Callable[[str], bool]) -> Path:
    target = Path(file)
    if not file.isprintable():
        raise InitError(f"{file!r} has characters that cannot be printed: name another file")
    if os.path.lexists(target) and not agree(f"Replace {target}?"):
        raise InitError(f"{target} exists: name another file, or add --force")
    return target


def _put(target: Path, written: str) -> None:
    """Write the file once it has been loaded without an error."""
    place = Path(os.path.realpath(target))  # behind a link, which stays
    try:
        with TemporaryDirectory(prefix=".init-", dir=place.parent) as work:
            made = Path(work) / "slotproxy.toml"
            made.touch(mode=0o600)  # keys may be added to it
            made.write_text(written, encoding="utf-8")
            try:
                load(["--config", str(made)], {})
            except SettingsError as error:
                why = str(error).replace(str(made), str(target))
                raise InitError(f"nothing was written, since it would not load: {why}") from error
            os.replace(made, place)
    except OSError as error:
        raise InitError(f"cannot write {target}: {error.strerror or error}") from error


def _next(file: Path) -> list[str]:
    return [
        f"wrote {file}",
        "\nnext:",
        f"  slotproxy doctor --config {file}   checks it",
        f"  slotproxy --config {file}          starts; open http://127.0.0.1:8081",
    ]


def _rendered(file: str, **values: Any) -> str:
    """The settings file of this name, from its template."""
    source = (templates() / "settings.toml.jinja").read_text("utf-8")
    rules = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    date = time.strftime("%Y-%m-%d")
    values |= {"file": file, "date": date, "value": _value, "data": data_folder()}
    return rules.from_string(source).render(values)


def text(findings: Found, file: str) -> str:
    """The settings for what was found. `file` is its name, for the commands in it."""
    # --models-dir takes but one folder. A model that it does not find gets a table of its own.
    flat = [files for files in findings.files if files.flat]
    folder = max(flat, key=lambda files: len(files.models), default=None)
    others: dict[str, Sequence[str]] = {}
    for files in findings.files:
        if files is not folder:
            others |= files.models
    program, tokens = findings.llama_server or "llama-server", str(_context(findings))
    servers = [server for server in findings.servers if server.kind == "llamacpp"]
    return _rendered(
        file,
        servers=servers,
        urls=[server.url for server in servers] or ["http://127.0.0.1:8080"],
        openai=[server for server in findings.servers if server.kind == "openai"],
        program=findings.llama_server,
        command=shlex.join([findings.llama_server or "/path/to/llama-server", "-c", tokens]),
        cards=findings.cards,
        folder=folder,
        memory=max(1, int(findings.memory * SHARE / GIB)),
        others=[
            (name, [program, "-c", tokens, *flags, "--host", "127.0.0.1", "--port", PORT])
            for name, flags in others.items()
            if folder is None or name not in folder.models
        ][:LISTED],
    )


def _context(findings: Found) -> int:
    """The tokens of context to propose, by the memory of cards or machine."""
    memory = sum(card.memory for card in findings.cards) or findings.memory
    return next((tokens for most, tokens in CONTEXTS if memory < most * GIB), 32768)


def of_foreign(foreign: ImportedConfig, source: str, file: str) -> str:
    """What the file `source` of another program says, without defaults."""
    lines = [f"# From {source}.", *(f"# {note}" for note in foreign.notes)]
    values = dict(foreign.values)
    if foreign.models_max:
        values["models_max"] = foreign.models_max
    tables = {name: values.pop(name, ()) for name in ("backend", "model")}
    lines += [f"{name} = {_value(value)}" for name, value in values.items()]
    for name, structs in tables.items():
        for struct in structs:
            lines += ["", f"[[{name}]]", *_fields(struct)]
    return _rendered(file, foreign="\n".join(lines))


def _fields(struct: Struct) -> Iterator[str]:
    for field in fields(struct):
        value = getattr(struct, field.name)
        if value is not None and value not in ({}, ()) and value != field.default:
            yield f"{field.name} = {_value(value)}"


def _value(value: Any) -> str:
    """A value in TOML, whose texts, numbers and lists are JSON's; without null."""
    if isinstance(value, Mapping):
        pairs = (
            f"{_value(name)} = {_value(item)}" for name, item in value.items() if item is not None
        )
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(_value(item) for item in value if item is not None)}]"
    return json.dumps(value, ensure_ascii=False)
