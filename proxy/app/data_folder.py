"""The data folder, and the names of our files in it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

SLOTS = "slots"  # the folder of saved slots
DATABASE, INDEX, RESPONSES = FILES = ("slotproxy.db", "index.db", "responses.sqlite")


def data_folder() -> Path:
    """The user's data folder, by the convention of the system."""
    if sys.platform == "win32":
        home = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        home = Path.home() / "Library" / "Application Support"
    else:
        home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "slotproxy"
