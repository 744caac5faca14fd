"""The data folder, and our files in it."""

from __future__ import annotations

import os
import sys
from importlib import util
from pathlib import Path

from ..runtime.installation import install
from .settings import Settings

SLOTS = "slots"  # the folder of saved slots
DATABASE, INDEX, CAPTURES = FILES = ("slotproxy.db", "index.db", "captures.db")
SQLITE = "sqlite:///"


def data_folder() -> Path:
    """The user's data folder, by the convention of the system."""
    if sys.platform == "win32":
        home = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        home = Path.home() / "Library" / "Application Support"
    else:
        home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "slotproxy"


def folder_of(settings: Settings) -> Path:
    """The data folder of these settings, which need not exist."""
    return Path(settings.data) if settings.data else data_folder()


def is_writable(folder: Path) -> bool:
    """Whether this user may write to a folder, or create it."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return os.access(existing, os.W_OK | os.X_OK)


def stored(settings: Settings) -> str:
    """What is stored where, for the user who starts the server."""
    if not util.find_spec("sqlalchemy"):
        return f"nothing is stored; for conversations and usage: {install('knowledge')}"
    folder = folder_of(settings)
    if not is_writable(folder):
        return f"nothing is stored: {folder} cannot be written; --data FOLDER names another folder"
    where = f"{folder}/".replace(f"{Path.home()}/", "~/").removesuffix("/")
    usage = "usage, ", ", --ledger-days 0 turns usage off"
    contents, off = usage if settings.ledger_days else ("", "")
    contents += "captures, " if settings.capture != "off" else ""
    return f"{where} (conversations, {contents}files); --data FOLDER moves it{off}"


def database_file(settings: Settings) -> Path | None:
    """SQLite's file, which need not exist; None if the data are in PostgreSQL."""
    if settings.database.startswith(SQLITE):
        return Path(settings.database.removeprefix(SQLITE))
    return None if settings.database else folder_of(settings) / DATABASE
