"""What ``slotproxy COMMAND`` does."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path

from .. import __version__
from ..config import Settings
from ..config.data_folder import DATABASE, INDEX, database_file, folder_of
from ..downloads.child import Job, Said
from ..downloads.choice import HubModel, reference
from ..downloads.download import Download, is_installed, room
from ..errors import BadRequest, GatewayError
from ..hosting.need import Cards
from ..runtime.installation import install
from ..store import archive
from ..store.archive import BackupError, Manifest
from ..store.revisions import NEWEST
from .initialize import InitError, convert, write

LOOK = 0.5  # seconds between two looks at the progress of a download


def write_backup(settings: Settings, file: str, *, force: bool = False) -> str:
    """Write FILE, an archive of what clients store, without settings, the key file and saved slots.
    Returns what it contains. Raises BackupError."""
    target = Path(file)
    if target.exists() and not force:
        raise BackupError(f"{target} exists: choose another name, or add --force")
    _refuse_postgres(settings, "pg_dump --format=custom --file=FILE URL")
    manifest = archive.write(target, _databases(settings), __version__)
    return f"{target}: {_described(manifest)}, {target.stat().st_size / 1e6:.1f} MB packed"


def restore_backup(settings: Settings, file: str, agree: Callable[[str], bool]) -> str:
    """Replace the data by those of FILE, if there are none or `agree` says yes. Returns what was
    restored. Raises BackupError, and then nothing was changed."""
    source = Path(file)
    _refuse_postgres(settings, "pg_restore --clean --if-exists --dbname=URL FILE")
    manifest = archive.read(source)
    if any(entry.revision > NEWEST for entry in manifest.files):
        raise BackupError(f"{source} is from a later slotproxy: install {manifest.version}")
    databases = _databases(settings)
    existing = [str(path) for path in databases.values() if path.exists()]
    question = f"Replace {', '.join(existing)} by the backup of {_when(manifest)}?"
    if existing and not agree(question):
        raise BackupError("nothing was changed: --force replaces existing data")
    manifest = archive.restore(source, databases)
    return f"restored the backup of {_when(manifest)}: {_described(manifest)}"


def _databases(settings: Settings) -> Mapping[str, Path]:
    """By name. The index first: it is completed at the start, but an extra entry would stay."""
    folder = folder_of(settings)
    database = database_file(settings) or folder / DATABASE
    return {INDEX: folder / INDEX, DATABASE: database}


def _refuse_postgres(settings: Settings, instead: str) -> None:
    if settings.database.startswith("postgresql"):
        raise BackupError(f"the data are in PostgreSQL, which has its own tool: {instead}")


def _described(manifest: Manifest) -> str:
    names = " and ".join(entry.name for entry in manifest.files)
    size = sum(entry.size for entry in manifest.files)
    return f"{names}, {size / 1e6:.1f} MB, slotproxy {manifest.version}"


def _when(manifest: Manifest) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(manifest.created))


# -- pull: a model downloaded in the terminal


def pull(settings: Settings, text: str, *, only_list: bool = False) -> str:
    """Download a model, or list those of its repository. Returns what is there then. Raises
    GatewayError."""
    meant = reference(text)
    fits = room(settings.memory_bytes, Cards(settings.gpu_memory_bytes).totals)
    if not (only_list or settings.models_dir):
        raise BadRequest("name the folder of models: --models-dir DIR")
    folder = "" if only_list else str(Path(settings.models_dir).absolute())
    if not is_installed():
        raise BadRequest(f"downloads require the extra pull: {install('pull')}")
    download = Download(Job(meant, folder, fits))
    try:
        download.listed.wait()
        if download.said.models:
            print("\n".join(table(download.said, fits)), flush=True)
        if not only_list:
            _show_progress(download)
        download.wait()
    except KeyboardInterrupt:
        download.cancel()
        raise BadRequest("interrupted: the same command continues the download") from None
    if only_list:
        return f"{len(download.said.models)} models"
    return (
        f"{download.said.chosen} is in {folder}: slotproxy serves it after a restart, a reload"
        " (kill -HUP), or at once with --watch-config"
    )


def table(said: Said, fits: int) -> list[str]:
    """The models of a repository: quantization, size, and whether it fits."""
    context = f"made for {said.context} tokens of context" if said.context else ""
    return [*(_row(model, said.chosen, fits) for model in said.models), *filter(None, [context])]


def _row(model: HubModel, chosen: str, fits: int) -> str:
    mark = "*" if model.name == chosen else " "
    why = "does not fit --memory or the cards" if fits and model.size > fits else ""
    size = f"{model.size / 1e9:.1f} GB"
    return f"{mark} {model.quantization:<12} {size:>9}  {model.name}  {why}".rstrip()


def _show_progress(download: Download) -> None:
    began, before = time.monotonic(), download.bytes
    while sys.stdout.isatty() and not download.ended.wait(LOOK):
        size, present = max(1, download.said.size), download.bytes
        speed = (present - before) / (time.monotonic() - began)
        line = f"{100 * present // size:3} %  {present / 1e9:.2f} of {size / 1e9:.2f} GB"
        line = "checking" if download.checking else f"{line}  {speed / 1e6:.1f} MB/s"
        print(f"\r{line:<60}", end="", flush=True)
    if sys.stdout.isatty():
        print()


def run(command: str, own: Namespace, settings: Settings) -> int:
    """Carry out a command with its `own` arguments. Returns the exit code."""
    if command == "doctor":
        from . import doctor

        return doctor.main(settings, as_json=own.json)
    if command == "pull":
        return _printed(lambda: pull(settings, own.model, only_list=own.list))
    if command == "backup":
        return _printed(lambda: write_backup(settings, own.file, force=own.force))
    return _printed(lambda: restore_backup(settings, own.file, _agreement(own)))


def init(own: Namespace, environ: Mapping[str, str]) -> int:
    """Write the first settings file; there need not be any settings before."""
    if own.source:
        return _printed(lambda: convert(own.source, own.file, _agreement(own), environ))
    return _printed(lambda: write(own.file, _agreement(own), environ))


def _agreement(own: Namespace) -> Callable[[str], bool]:
    return (lambda question: True) if own.force else agree


def agree(question: str) -> bool:
    """Ask on the terminal. Without one, the answer is no."""
    if not sys.stdin.isatty():
        return False
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _printed(work: Callable[[], str]) -> int:
    """Print what a command says. Returns the exit code."""
    try:
        print(work())
    except (BackupError, InitError, GatewayError) as error:
        print(f"slotproxy: {error}", file=sys.stderr)
        return 1
    return 0
