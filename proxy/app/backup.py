"""``slotproxy backup FILE`` and ``slotproxy restore FILE``: the data in SQLite, as one archive.

A backup has what clients store: conversations, files, knowledge, responses, keys made at run time,
the ledger. It has neither the settings, nor the key file, nor saved slots, which are caches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from .. import __version__
from ..config import Settings
from ..store import archive
from ..store.archive import BackupError, Manifest
from ..store.revisions import newest_revision
from .data_folder import DATABASE, INDEX, database_file, folder_of

RESPONSE_STORE = "response-store.db"  # the name of --response-store in an archive


def backup(settings: Settings, file: str, *, force: bool = False) -> str:
    """Write FILE. Returns what it contains. Raises BackupError."""
    target = Path(file)
    if target.exists() and not force:
        raise BackupError(f"{target} exists: choose another name, or add --force")
    _refuse_postgres(settings, "pg_dump --format=custom --file=FILE URL")
    manifest = archive.write(target, _databases(settings), __version__)
    return f"{target}: {_described(manifest)}, {_size(target.stat().st_size)} packed"


def restore(settings: Settings, file: str, agree: Callable[[str], bool]) -> str:
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
    found = {INDEX: folder / INDEX, DATABASE: database}
    if settings.response_store:
        found[RESPONSE_STORE] = Path(settings.response_store)
    return found


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
