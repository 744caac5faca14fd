"""The flags with which a llama-server saves slots, found in a command or added to it."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from ..config import PORT, ModelConfig
from ..runtime.locks import native_lock
from ..runtime.subprocesses import kill_session, start_program
from .estimate import flag
from .process import filled_in

FOLDER_FLAG = "--slot-save-path"
# A llama-server moves prompts from its slots to its RAM cache, where it cannot save them. Without
# it, the scheduler saves each before it is evicted.
RAM_FLAG, RAM_FLAGS = "--cache-ram", {"--cache-ram", "-cram"}
IDLE_FLAG, IDLE_FLAGS = "--no-cache-idle-slots", {"--no-cache-idle-slots", "--cache-idle-slots"}
HELP_TIMEOUT = 20.0  # seconds for a program to print its help
MAX_HELP = 1 << 20  # bytes of it

_lock = native_lock()
_helps: dict[tuple[str, ...], str] = {}  # by command without the model


def folder_in(command: Sequence[str], base: str) -> Path | None:
    """The folder for saved slots that a command names, which runs in the folder `base`."""
    found = flag(command, FOLDER_FLAG)
    return Path(base, found).absolute() if found else None


def added(config: ModelConfig, folder: Path) -> tuple[str, ...]:
    """The flags to add, so that the server saves slots in `folder`: none if its --help does not
    list them."""
    known, given = _help(config), {word.partition("=")[0] for word in config.command}
    if FOLDER_FLAG not in known:
        return ()
    flags: tuple[str, ...] = (FOLDER_FLAG, str(folder))
    if RAM_FLAG in known and not given & RAM_FLAGS:
        flags += (RAM_FLAG, "0")
    elif IDLE_FLAG in known and not given & IDLE_FLAGS:
        flags += (IDLE_FLAG,)
    return flags


def _help(config: ModelConfig) -> str:
    """What a command prints with --help, whatever program it begins with; "" if it prints nothing
    in time. A llama-server prints its help before it opens the model."""
    key = tuple(word for word in config.command if not word.endswith(".gguf"))
    with _lock:
        if key in _helps:
            return _helps[key]
    text = _printed((*filled_in(config.command, PORT, 1), "--help"), config)
    with _lock:
        _helps[key] = text
    return text


def _printed(words: Sequence[str], config: ModelConfig) -> str:
    """Raises OSError."""
    process = start_program(
        words,
        config.environment,
        cwd=config.folder or None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    late = threading.Timer(HELP_TIMEOUT, kill_session, (process,))
    late.start()
    try:
        assert process.stdout is not None
        with process.stdout as output:
            return output.read(MAX_HELP).decode("utf-8", "replace")
    finally:
        late.cancel()
        kill_session(process)
        process.wait()
