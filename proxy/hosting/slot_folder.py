"""A folder of saved slots: its files are this gateway's alone, and only its user can read them.

Beside the slot files of each model is an index: which server and prompts they are of, and as which
file each was written. A slot file that no index names, or that has changed since, is never
restored.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Collection, Iterable
from hashlib import blake2b
from pathlib import Path

import msgspec
from msgspec import Struct

from ..backends.driver import Capabilities
from ..config import ModelConfig
from ..runtime import private_files
from ..runtime.blocking import run_in_native_thread
from ..scheduling.saved_slots import SavedPrompt
from .model_files import fingerprint

if sys.platform != "win32":
    import fcntl

PREFIX = "slotproxy-"
INDEX, NEW = "index.json", ".new"  # ends of the name of an index, and of one that is being written
LOCK = ".slotproxy.lock"
LARGEST = 1 << 24  # bytes of an index
LASTING = 30 * 86400.0  # seconds for which the files of a model that is not used are kept
SERVER_VARIABLES = ("LLAMA_", "GGML_")  # prefixes of those that change what a server does
SIZE = 16  # bytes of a digest

Identity = tuple[int, int, int, int]


class Index(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of the slot files of a model: the digest of the server that may restore them,
    the time of the index in seconds since 1970, and the identity and prompt of each file."""

    server: str
    saved: float
    files: tuple[tuple[Identity, SavedPrompt], ...]


def of_command(config: ModelConfig) -> str:
    """The digest of all that must be the same for a slot to be restored: the words of the command
    (model, LoRA, context, cache types, …), its environment, its GGUF files and the program, with
    their sizes and times."""
    inherited = sorted(item for item in os.environ.items() if item[0].startswith(SERVER_VARIABLES))
    program = of_file(Path(shutil.which(config.command[0]) or config.command[0]))
    return _digest(fingerprint(config), config.folder, inherited, program)


def with_build(command: str, caps: Capabilities) -> str:
    """The digest of a server that runs, with what it says about itself."""
    return _digest(command, caps.build, caps.n_ctx, caps.n_vocab, caps.models)


def _digest(*values: object) -> str:
    return blake2b(msgspec.msgpack.encode(values), digest_size=SIZE).hexdigest()


def of_file(path: Path) -> Identity | None:
    """The identity of a file: its place on the disk, its size and its times. The time of the last
    change of its state (ctime) cannot be set, so every later write shows. None if there is none."""
    with contextlib.suppress(OSError):
        info = path.lstat()
        return info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns
    return None


class SlotFolder:
    """Creates the folder. Raises OSError: a BlockingIOError if another gateway uses it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            path.mkdir(mode=0o700, parents=True)
        private_files.database(path / LOCK)
        self._lock = os.open(path / LOCK, os.O_RDWR | os.O_CLOEXEC)
        try:
            if sys.platform != "win32":
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise

    def create(self, file: str) -> None:
        """Create an empty private file; a server that overwrites it keeps the mode."""
        self.remove((file,))
        os.close(os.open(self.path / file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))

    def remove(self, files: Iterable[str]) -> None:
        for file in files:
            with contextlib.suppress(OSError):
                (self.path / file).unlink()

    def write_index(self, beginning: str, index: Index) -> None:
        """Write the index of the files that begin so, whole or not at all. Raises OSError."""

        def work() -> None:
            new = self.path / (beginning + INDEX + NEW)
            new.unlink(missing_ok=True)
            descriptor = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with open(descriptor, "wb") as opened:
                opened.write(msgspec.json.encode(index))
            new.replace(self.path / (beginning + INDEX))

        run_in_native_thread(work)

    def read_index(self, beginning: str) -> Index | None:
        """The index of the files that begin so; None if it is missing, too large or broken. Of its
        files only those that are as they were written."""
        return run_in_native_thread(lambda: self._read_index(beginning))

    def _read_index(self, beginning: str) -> Index | None:
        with contextlib.suppress(OSError, ValueError):
            # Never waits for what a name that is no plain file would give.
            flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
            with open(os.open(self.path / (beginning + INDEX), flags), "rb") as file:
                text = file.read(LARGEST + 1)
            if len(text) <= LARGEST:
                index = msgspec.json.decode(text, type=Index)
                ours = [pair for pair in index.files if pair[1].file.startswith(beginning)]
                same = (pair for pair in ours if pair[0] == of_file(self.path / pair[1].file))
                return msgspec.structs.replace(index, files=tuple(same))
        return None

    def sweep(self, keep: Collection[str], beginning: str) -> None:
        """Remove our files that begin so, but for the index and those to keep."""
        names = [name for name in os.listdir(self.path) if name.startswith(beginning)]
        self.remove(name for name in names if name not in keep and name != beginning + INDEX)

    def sweep_all(self) -> None:
        """Remove the files of all models that have no index, or were not used for long."""
        used = []
        for path in self.path.glob(f"{PREFIX}*{INDEX}"):
            with contextlib.suppress(OSError):  # it is gone
                if time.time() - path.lstat().st_mtime < LASTING:
                    used.append(path.name.removesuffix(INDEX))
        names = [name for name in os.listdir(self.path) if name.startswith(PREFIX)]
        self.remove(name for name in names if not name.startswith(tuple(used)))

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
