"""What ``slotproxy COMMAND`` does. Each command is imported when it is called."""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from ..config import Settings, SettingsError, load
from . import first_settings
from .discovery import Found, look


# ``slotproxy init``: writes a settings file for what it finds on this machine.
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
    target = Path(file)
    if not file.isprintable():
        raise InitError(f"{file!r} has characters that cannot be printed: name another file")
    if os.path.lexists(target) and not agree(f"Replace {target}?"):
        raise InitError(f"{target} exists: name another file, or add --force")
    found = find(environ, Path.home())
    written = first_settings.text(found, str(target), time.strftime("%Y-%m-%d"))
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
    return "\n".join([*_told(found), f"wrote {target}", "", *_next(found, str(target))])


def _told(found: Found) -> list[str]:
    rows = [
        ("server", f"{one.url}  {one.title} {', '.join(one.models[:3])}".rstrip())
        for one in found.servers
    ]
    rows += [("models", f"{one.folder}  {len(one.models)} GGUF") for one in found.files]
    if found.llama_server:
        rows.append(("program", found.llama_server))
    if not rows:
        return ["found no model server, no GGUF file and no llama-server"]
    return ["found:", *(f"  {name:<8} {text}" for name, text in rows)]


def _next(found: Found, file: str) -> list[str]:
    lines = ["next:"]
    served = any(one.kind in ("llamacpp", "openai") for one in found.servers)
    if not served and not (found.files and found.llama_server):
        if found.files:
            lines.append(f"  name your llama-server in {file}, and remove the # there")
        elif found.llama_server:
            lines.append("  put a GGUF file into ~/models and run this again")
        else:
            lines.append(f"  start a model server, and name its address in {file}")
            lines.append("  (without one, slotproxy runs a tiny bundled model, to try the APIs)")
    lines.append(f"  slotproxy doctor --config {file}   checks it")
    lines.append(f"  slotproxy --config {file}          starts; open http://127.0.0.1:8081")
    return lines


def run(command: str, own: Namespace, settings: Settings) -> int:
    """Carry out a command with its `own` arguments. Returns the exit code."""
    if command in ("backup", "restore"):
        return _keep(command, own, settings)
    from . import doctor

    return doctor.main(settings, print, as_json=own.json)


def init(own: Namespace, environ: Mapping[str, str]) -> int:
    """Write the first settings file; there need not be any settings before."""

    try:
        print(write(own.file, _always if own.force else agree, environ))
    except InitError as error:
        return _failed(str(error))
    return 0


def _keep(command: str, own: Namespace, settings: Settings) -> int:
    try:
        from ..store.archive import BackupError
        from . import backup
    except ImportError:
        return _failed(f"{command} requires pip install slotproxy[knowledge]")
    try:
        if command == "backup":
            print(backup.backup(settings, own.file, force=own.force))
        else:
            print(backup.restore(settings, own.file, _always if own.force else agree))
    except BackupError as error:
        return _failed(str(error))
    return 0


def agree(question: str) -> bool:
    """Ask on the terminal. Without one, the answer is no."""
    if not sys.stdin.isatty():
        return False
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _always(question: str) -> bool:
    return True


def _failed(why: str) -> int:
    print(f"slotproxy: {why}", file=sys.stderr)
    return 1
