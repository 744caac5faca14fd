"""``slotproxy init``: writes a settings file for what is found on this machine, or for what a
configuration file of another program says."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from msgspec import Struct
from msgspec.structs import fields

from ..config import PORT, Foreign, SettingsError, load, of_other_program
from .discovery import Files, Found, Server, look

LISTED = 20  # models that get a table of their own
SHARE = 0.75  # of the machine's memory, for models that slotproxy starts
GIB = 1 << 30


class InitError(Exception):
    """The file cannot be written. The message is one line for the user."""


def write(
    file: str,
    agree: Callable[[str], bool],
    environ: Mapping[str, str],
    find: Callable[[Mapping[str, str], Path], Found] = look,
) -> str:
    """Write `file`, if there is none or `agree` says yes to the question. Returns what was found
    and what to do next. Raises InitError."""
    target = _target(file, agree)
    found = find(environ, Path.home())
    _put(target, text(found, str(target)))
    rows = [
        ("server", f"{server.url}  {server.title} {', '.join(server.models[:3])}".rstrip())
        for server in found.servers
    ]
    rows += [("models", f"{files.folder}  {len(files.models)} GGUF") for files in found.files]
    if found.llama_server:
        rows.append(("program", found.llama_server))
    lines = ["found:" if rows else "found no model server, no GGUF file and no llama-server"]
    lines += [f"  {name:<8} {what}" for name, what in rows]
    return "\n".join([*lines, f"wrote {target}", *_next(str(target), _first_step(found, target))])


def convert(
    source: str, file: str, agree: Callable[[str], bool], environ: Mapping[str, str]
) -> str:
    """Write `file` with what `source` says, a configuration file of another program. Returns what
    to do next. Raises InitError."""
    target = _target(file, agree)
    try:
        read = of_other_program(source, environ)
    except SettingsError as error:
        raise InitError(str(error)) from error
    _put(target, of_foreign(read, source, str(target)))
    notes = [f"note: {note}" for note in read.notes]
    return "\n".join([*notes, f"wrote {target}", *_next(str(target), [])])


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


def _first_step(found: Found, file: Path) -> list[str]:
    if any(server.kind in ("llamacpp", "openai") for server in found.servers):
        return []
    if found.files:
        return [] if found.llama_server else [f"name your llama-server in {file}"]
    if found.llama_server:
        return ["put a GGUF file into ~/models and run this again"]
    return [
        f"start a model server, and name its address in {file}",
        "(without one, slotproxy runs a tiny bundled model, to try the APIs)",
    ]


def _next(file: str, first: Sequence[str]) -> list[str]:
    steps = [
        *first,
        f"slotproxy doctor --config {file}   checks it",
        f"slotproxy --config {file}          starts; open http://127.0.0.1:8081",
    ]
    return ["", "next:", *(f"  {step}" for step in steps)]


# the file


def _head(file: str) -> str:
    return (
        f"# Settings of slotproxy, written by `slotproxy init` on {time.strftime('%Y-%m-%d')}.\n"
        f"#   check:  slotproxy doctor --config {file}\n"
        f"#   start:  slotproxy --config {file}\n"
        "# A line that begins with # has no effect. `slotproxy --help all` lists all settings.\n"
    )


def text(found: Found, file: str) -> str:
    """The settings for what was found, with comments. `file` is its name, for the commands in
    it."""
    # --models-dir takes but one folder.
    flat = [files for files in found.files if files.flat]
    folder = max(flat, key=lambda files: len(files.models), default=None)
    openai = (server for server in found.servers if server.kind == "openai")
    tables = [*map(_openai, openai), *_tables(found, folder)]
    return "\n".join(
        [_head(file), *_servers(found.servers), *_models(found, folder), _REST, *tables]
    )


def _servers(servers: Sequence[Server]) -> Iterator[str]:
    ours = [server for server in servers if server.kind == "llamacpp"]
    yield "# -- Servers of llama.cpp and PowerInfer: one address for each --"
    yield from (f"# {_described(server)}" for server in ours)
    urls = [server.url for server in ours] or ["http://127.0.0.1:8080"]
    yield f"{'' if ours else '# '}llama_api = {_value(urls)}\n"


def _described(server: Server) -> str:
    names = ", ".join(server.models[:3]) + (" …" if len(server.models) > 3 else "")
    return f"port {server.port}: {server.title}" + (f" ({names})" if names else "")


def _models(found: Found, folder: Files | None) -> Iterator[str]:
    yield "# -- Models that slotproxy starts itself, when a request names them --"
    off = "" if found.llama_server and folder else "# "
    if not found.llama_server:
        yield "# llama-server is not on the PATH: name it, and remove the # of these lines."
    if folder:
        yield f"# {len(folder.models)} in this folder:"
    yield f"{off}models_dir = {_value(str(folder.folder) if folder else '/path/to/gguf/files')}"
    yield f"{off}llama_server = {_value(found.llama_server or '/path/to/llama-server')}"
    yield "# What they may need together; idle ones give way to others."
    yield f"{off}memory = {_value(f'{max(1, int(found.memory * SHARE / GIB))}GiB')}"
    yield "# Idle seconds after which one is unloaded; 0: never."
    yield "# models_ttl = 600\n"


_REST = """\
# -- Access --
# The address 127.0.0.1 is for this machine alone. Before you open it to others (0.0.0.0), write
# a file with a line `NAME KEY` for each person, and name it here.
host = "127.0.0.1"
port = 8081
# api_key_file = "keys"
# admins = ["ops"]            # names in that file
# trusted_proxies = ["127.0.0.1"]  # with nginx or Caddy in front
# metrics = true              # GET /metrics

# -- Data: conversations, files, knowledge; needs slotproxy[knowledge] --
# Knowledge is found by its words, and with slotproxy[embed] by its meaning too.
# Without this line they are in your user's data folder.
# data = "/var/lib/slotproxy"
"""


def _openai(server: Server) -> str:
    return (
        f"# {_described(server)}\n"
        "[[backend]]\n"
        'kind = "openai"\n'
        f"url = {_value(server.url + '/v1')}\n"
        "# model = …  only this one of its models\n"
        "# slots = 4  requests that it gets at once\n"
    )


def _tables(found: Found, folder: Files | None) -> Iterator[str]:
    """A [[model]] table for each model that --models-dir does not find."""
    others: dict[str, Sequence[str]] = {}
    for files in found.files:
        if files is not folder:
            others |= files.models
    off = "" if found.llama_server else "# "
    named = folder.models if folder else {}
    for name in [name for name in others if name not in named][:LISTED]:
        words = [found.llama_server or "llama-server", *others[name], "--host", "127.0.0.1"]
        command = _value([*words, "--port", PORT])
        yield f"{off}[[model]]\n{off}name = {_value(name)}\n{off}command = {command}\n"


def of_foreign(foreign: Foreign, source: str, file: str) -> str:
    """What a configuration file of another program says, as settings of ours: only what differs
    from a default. `source` is its name."""
    lines = [_head(file), f"# From {source}.", *(f"# {note}" for note in foreign.notes)]
    values = dict(foreign.values)
    if foreign.models_max:
        values["models_max"] = foreign.models_max
    tables = {name: values.pop(name, ()) for name in ("backend", "model")}
    lines += [f"{name} = {_value(value)}" for name, value in values.items()]
    for name, structs in tables.items():
        for struct in structs:
            lines += ["", f"[[{name}]]", *_fields(struct)]
    return "\n".join([*lines, ""])


def _fields(struct: Struct) -> Iterator[str]:
    for field in fields(struct):
        value = getattr(struct, field.name)
        if value is not None and value not in ({}, ()) and value != field.default:
            yield f"{field.name} = {_value(value)}"


def _value(value: Any) -> str:
    """A value in TOML, whose texts, numbers and lists are JSON's. TOML has no null: such fields of
    a table are left out."""
    if isinstance(value, Mapping):
        pairs = (
            f"{_value(name)} = {_value(item)}" for name, item in value.items() if item is not None
        )
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(_value(item) for item in value if item is not None)}]"
    return json.dumps(value, ensure_ascii=False)
