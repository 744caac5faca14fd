"""What ``slotproxy COMMAND`` does. Each command is imported when it is called."""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from .. import __version__
from ..config import Settings, SettingsError, load, of_other_program
from ..store import archive
from ..store.archive import BackupError, Manifest
from ..store.revisions import newest_revision
from . import first_settings
from .data_folder import DATABASE, INDEX, database_file, folder_of
from .discovery import Found, look


# ``slotproxy backup FILE`` and ``slotproxy restore FILE``: the data in SQLite, as one archive.
#
# A backup has what clients store: conversations, files, knowledge, responses, keys made at run
# time, the ledger. It has neither the settings, nor the key file, nor saved slots, which are
# caches.
def write_backup(settings: Settings, file: str, *, force: bool = False) -> str:
    """Write FILE. Returns what it contains. Raises BackupError."""
    target = Path(file)
    if target.exists() and not force:
        raise BackupError(f"{target} exists: choose another name, or add --force")
    _refuse_postgres(settings, "pg_dump --format=custom --file=FILE URL")
    manifest = archive.write(target, _databases(settings), __version__)
    return f"{target}: {_described(manifest)}, {_size(target.stat().st_size)} packed"


def restore_backup(settings: Settings, file: str, agree: Callable[[str], bool]) -> str:
    """Replace the data by those of FILE, if there are none or `agree` says yes to the question.
    Returns what was restored. Raises BackupError, and then nothing was changed."""
    source = Path(file)
    _refuse_postgres(settings, "pg_restore --clean --if-exists --dbname=URL FILE")
    manifest = archive.read(source)
    if any(one.revision > newest_revision() for one in manifest.files):
        raise BackupError(f"{source} is from a later slotproxy: install {manifest.version}")
    databases = _databases(settings)
    existing = [str(path) for path in databases.values() if path.exists()]
    question = f"Replace {', '.join(existing)} by the backup of {_when(manifest)}?"
    if existing and not agree(question):
        raise BackupError("nothing was changed: --force replaces existing data")
    manifest = archive.restore(source, databases)
    return f"restored the backup of {_when(manifest)}: {_described(manifest)}"


def _databases(settings: Settings) -> Mapping[str, Path]:
    """By their names in the archive. The index first: what is added later is indexed again at the
    start, but an entry without its document would stay."""
    folder = folder_of(settings)
    database = database_file(settings) or folder / DATABASE
    return {INDEX: folder / INDEX, DATABASE: database}


def _refuse_postgres(settings: Settings, instead: str) -> None:
    if settings.database.startswith("postgresql"):
        raise BackupError(f"the data are in PostgreSQL, which has its own tool: {instead}")


def _described(manifest: Manifest) -> str:
    names = " and ".join(entry.name for entry in manifest.files)
    return f"{names}, {_size(manifest.size)}, slotproxy {manifest.version}"


def _when(manifest: Manifest) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(manifest.created))


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


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
    target = _target(file, agree)
    found = find(environ, Path.home())
    written = first_settings.text(found, str(target), time.strftime("%Y-%m-%d"))
    _put(target, written)
    return "\n".join([*_told(found), f"wrote {target}", "", *_next(found, str(target))])


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
    _put(target, first_settings.of_foreign(read, source, str(target), time.strftime("%Y-%m-%d")))
    notes = [f"note: {note}" for note in read.notes]
    return "\n".join([*notes, f"wrote {target}", "", "next:", *_commands(str(target))])


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
    return [*lines, *_commands(file)]


def _commands(file: str) -> list[str]:
    return [
        f"  slotproxy doctor --config {file}   checks it",
        f"  slotproxy --config {file}          starts; open http://127.0.0.1:8081",
    ]


def run(command: str, own: Namespace, settings: Settings) -> int:
    """Carry out a command with its `own` arguments. Returns the exit code."""
    if command in ("backup", "restore"):
        return _keep(command, own, settings)
    from . import doctor

    return doctor.main(settings, print, as_json=own.json)


def init(own: Namespace, environ: Mapping[str, str]) -> int:
    """Write the first settings file; there need not be any settings before."""
    may = _always if own.force else agree
    try:
        if own.source:
            print(convert(own.source, own.file, may, environ))
        else:
            print(write(own.file, may, environ))
    except InitError as error:
        return _failed(str(error))
    return 0


def _keep(command: str, own: Namespace, settings: Settings) -> int:
    try:
        from ..store.archive import BackupError
    except ImportError:
        return _failed(f"{command} requires pip install slotproxy[knowledge]")
    try:
        if command == "backup":
            print(write_backup(settings, own.file, force=own.force))
        else:
            print(restore_backup(settings, own.file, _always if own.force else agree))
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
