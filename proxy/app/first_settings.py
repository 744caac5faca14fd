"""The settings file that ``slotproxy init`` writes, as text: pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import fields

from ..config import PORT, Foreign
from .discovery import Files, Found, Server

LISTED = 20  # models that get a table of their own
SHARE = 0.75  # of the machine's memory, for models that slotproxy starts
GIB = 1 << 30


def text(found: Found, file: str, date: str) -> str:
    """The settings for what was found, with comments. `file` is its name, for the commands in
    it."""
    parts = [
        _head(file, date),
        _servers(found.servers),
        _models(found),
        _ACCESS,
        _DATA,
        *map(_openai, (one for one in found.servers if one.kind == "openai")),
        *_tables(found),
    ]
    return "\n".join(part for part in parts if part)


def of_foreign(foreign: Foreign, source: str, file: str, date: str) -> str:
    """What a configuration file of another program says, as settings of ours: only what differs
    from a default. `source` is its name."""
    lines = [_head(file, date), f"# From {source}."]
    lines += [f"# {note}" for note in foreign.notes]
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


def _head(file: str, date: str) -> str:
    return (
        f"# Settings of slotproxy, written by `slotproxy init` on {date}.\n"
        f"#   check:  slotproxy doctor --config {file}\n"
        f"#   start:  slotproxy --config {file}\n"
        "# A line that begins with # has no effect. `slotproxy --help all` lists all settings.\n"
    )


def _servers(servers: Sequence[Server]) -> str:
    ours = [server for server in servers if server.kind == "llamacpp"]
    lines = ["# -- Servers of llama.cpp and PowerInfer: one address for each --"]
    lines += [f"# {_described(server)}" for server in ours]
    if ours:
        return "\n".join([*lines, f"llama_api = {_value([one.url for one in ours])}", ""])
    return "\n".join([*lines, "# None was found.", '# llama_api = ["http://127.0.0.1:8080"]', ""])


def _described(server: Server) -> str:
    names = ", ".join(server.models[:3]) + (" …" if len(server.models) > 3 else "")
    return f"port {server.port}: {server.title}" + (f" ({names})" if names else "")


def _models(found: Found) -> str:
    lines = ["# -- Models that slotproxy starts itself, when a request names them --"]
    folder = _folder(found)
    off = "" if found.llama_server and folder else "# "
    if folder:
        count = len(folder.models)
        lines.append(f"# {count} {'model' if count == 1 else 'models'} in this folder:")
    if not found.llama_server:
        lines.append("# llama-server is not on the PATH: name it, and remove the # of these lines.")
    lines += [
        f"{off}models_dir = {_value(str(folder.folder) if folder else '/path/to/gguf/files')}",
        f"{off}llama_server = {_value(found.llama_server or '/path/to/llama-server')}",
        "# What they may need together; idle ones give way to others.",
        f"{off}memory = {_value(f'{max(1, int(found.memory * SHARE / GIB))}GiB')}",
        "# Idle seconds after which one is unloaded; 0: never.",
        "# models_ttl = 600",
        "",
    ]
    return "\n".join(lines)


def _folder(found: Found) -> Files | None:
    """The folder for --models-dir, which there is but one of: that with most models."""
    flat = [files for files in found.files if files.flat]
    return max(flat, key=lambda files: len(files.models), default=None)


_ACCESS = """\
# -- Access --
# The address 127.0.0.1 is for this machine alone. Before you open it to others (0.0.0.0), write
# a file with a line `NAME KEY` for each person, and name it here.
host = "127.0.0.1"
port = 8081
# api_key_file = "keys"
# admins = ["ops"]            # names in that file
# trusted_proxies = ["127.0.0.1"]  # with nginx or Caddy in front
# metrics = true              # GET /metrics
"""

_DATA = """\
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


def _tables(found: Found) -> Iterator[str]:
    """A [[model]] table for each model that --models-dir does not find."""
    folder = _folder(found)
    others: Mapping[str, tuple[str, ...]] = {
        name: flags
        for files in found.files
        if files is not folder
        for name, flags in files.models.items()
        if folder is None or name not in folder.models
    }
    if not others:
        return
    yield "# Models in other folders.\n"
    off = "" if found.llama_server else "# "
    for name, flags in list(others.items())[:LISTED]:
        words = [found.llama_server or "llama-server", *flags, "--host", "127.0.0.1"]
        yield (
            f"{off}[[model]]\n"
            f"{off}name = {_value(name)}\n"
            f"{off}command = {_value([*words, '--port', PORT])}\n"
        )
    if len(others) > LISTED:
        yield f"# {len(others) - LISTED} more were found.\n"


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
