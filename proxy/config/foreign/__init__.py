"""Configuration files of other programs, as settings of this one.

llama-swap's configuration (YAML) and llama-server's presets (INI) are read as they are, and
``slotproxy init --from FILE`` writes what they say as a settings file of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .. import models_folder
from .foreign import Foreign

ENDINGS = (".yaml", ".yml", ".ini")


def read(
    path: str, text: str, environ: Mapping[str, str], given: Callable[[str], Any]
) -> Foreign | None:
    """What a file says, by its ending; None if it is none of another program. `given` returns a
    setting of the flags and the environment. Raises ValueError."""
    kind = Path(path).suffix.lower()
    if kind not in ENDINGS:
        return None
    if kind != ".ini":
        from . import llama_swap  # late: few need the YAML library

        return llama_swap.read(text, environ)
    from . import model_presets

    server, folder, ttl = map(given, ("llama_server", "models_dir", "models_ttl"))
    found = models_folder.of_folder(folder, server, ttl) if folder else ()
    return model_presets.read(text, server, found)
