"""The data folder, and our files in it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..config import Settings

SLOTS = "slots"  # the folder of saved slots
DATABASE, INDEX = FILES = ("slotproxy.db", "index.db")
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


def database_file(settings: Settings) -> Path | None:
    """SQLite's file, which need not exist; None if the data are in PostgreSQL."""
    if settings.database.startswith(SQLITE):
        return Path(settings.database.removeprefix(SQLITE))
    return None if settings.database else folder_of(settings) / DATABASE
