"""A folder of saved slots: its files are this gateway's alone, and only its user can read them.

Beside each slot file is a small JSON file, its sidecar: which model, server and prompt it is of,
and which file it was written for. A slot file without a sidecar, or with one that is torn, foreign
or of another file, is never restored.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Collection, Iterable, Mapping
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

PREFIX, SUFFIX = "slotproxy-", ".bin"
BESIDE, NEW = ".json", ".new"  # ends of the name of a sidecar, and of one that is being written
LOCK = ".slotproxy.lock"
LARGEST = 1 << 16  # bytes of a sidecar
LASTING = 30 * 86400.0  # seconds for which the files of a model that is not used are kept
SERVER_VARIABLES = ("LLAMA_", "GGML_")  # prefixes of those that change what a server does
SIZE = 16  # bytes of a digest

Identity = tuple[int, int, int, int]


class Sidecar(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of a slot file: its model, the digest of the server that may restore it, the
    identity of the file, the time in seconds since 1970, and its prompt."""

    model: str
    server: str
    file: Identity
    saved: float
    prompt: SavedPrompt


def of_command(config: ModelConfig) -> str:
    """The digest of all that must be the same for a slot to be restored: the words of the command,
    its environment, its GGUF files and the program, with their sizes and times."""
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
        os.close(_create(self.path / file))

    def remove(self, files: Iterable[str]) -> None:
        for file in files:
            for name in (file + BESIDE, file):
                with contextlib.suppress(OSError):
                    (self.path / name).unlink()

    def describe(self, files: Mapping[str, Sidecar]) -> None:
        """Write the sidecars of slot files, each whole or not at all. Raises OSError."""

        def work() -> None:
            for file, sidecar in files.items():
                new = self.path / (file + BESIDE + NEW)
                new.unlink(missing_ok=True)
                with open(_create(new), "wb") as opened:
                    opened.write(msgspec.json.encode(sidecar))
                new.replace(self.path / (file + BESIDE))

        run_in_native_thread(work)

    def sidecars(self) -> list[Sidecar]:
        """Those that fit their slot files."""

        def work() -> list[Sidecar]:
            return [
                sidecar
                for path in self.path.glob(f"{PREFIX}*{SUFFIX}{BESIDE}")
                if (sidecar := _read(path)) is not None
                and sidecar.prompt.file + BESIDE == path.name
                and sidecar.file == of_file(self.path / sidecar.prompt.file)
            ]

        return run_in_native_thread(work)

    def sweep(self, keep: Collection[str], beginning: str = PREFIX) -> None:
        """Remove our slot files that begin so, and their sidecars, but for those to keep."""
        for name in os.listdir(self.path):
            file, suffix, end = name.partition(SUFFIX)
            if not (name.startswith(beginning) and suffix):
                continue
            if end == BESIDE + NEW or (end in ("", BESIDE) and file + suffix not in keep):
                with contextlib.suppress(OSError):
                    (self.path / name).unlink()

    def sweep_all(self) -> None:
        """Remove the slot files that no sidecar fits, or that were not used for long."""
        now = time.time()
        self.sweep({s.prompt.file for s in self.sidecars() if now - s.saved < LASTING})

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _create(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)


def _read(path: Path) -> Sidecar | None:
    """None if it is missing, no plain file, too large or broken."""
    with contextlib.suppress(OSError, msgspec.MsgspecError, ValueError):
        if path.is_file() and path.stat().st_size <= LARGEST:
            return msgspec.json.decode(path.read_bytes(), type=Sidecar)
    return None
