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
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from ..backends.driver import Capabilities
from ..config import ModelConfig
from ..runtime import private_files
from ..runtime.blocking import run_in_native_thread
from ..scheduling.saved_slots import SavedPrompt
from . import model_files

# Whether a saved slot fits a server, and whether a file is still the one that was written.
SERVER_VARIABLES = ("LLAMA_", "GGML_")  # prefixes of those that change what a server does
SIZE = 16  # bytes of a digest

T = TypeVar("T")
Identity = tuple[int, int, int, int]


class Sidecar(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of a slot file: its model, the digest of the server that may restore it, the
    identity of the file, the time in seconds since 1970, and its prompt."""

    model: str
    server: str
    file: Identity
    saved: float
    prompt: SavedPrompt


class Vain(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many restored files of a model were of no use in a row, with the command that has this
    digest."""

    command: str
    count: int


def of_command(config: ModelConfig) -> str:
    """The digest of all that must be the same for a slot to be restored: the words of the command
    (model, LoRA, context, cache types, …), its environment, and the files that it names with their
    sizes and times, the program included."""
    inherited = sorted(item for item in os.environ.items() if item[0].startswith(SERVER_VARIABLES))
    others = [(str(path), *_changes(path)) for path in _files(config)]
    seen = (model_files.fingerprint(config), config.folder, inherited, others)
    return blake2b(msgspec.msgpack.encode(seen), digest_size=SIZE).hexdigest()


def with_build(command: str, caps: Capabilities) -> str:
    """The digest of a server that runs, with what it says about itself."""
    seen = (command, caps.build, caps.n_ctx, caps.n_vocab, caps.models)
    return blake2b(msgspec.msgpack.encode(seen), digest_size=SIZE).hexdigest()


def of_file(path: Path) -> Identity | None:
    """The identity of a file: its place on the disk, its size and its times. The time of the last
    change of its state (ctime) cannot be set, so every later write shows. None if there is none."""
    with contextlib.suppress(OSError):
        info = path.lstat()
        return info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns
    return None


def _files(config: ModelConfig) -> Iterator[Path]:
    """The program, and files that are not GGUF."""
    program = shutil.which(config.command[0])
    if program is not None:
        yield Path(program)
    for word in config.command[1:]:
        for text in (word, *word.split("=", 1)[1:]):
            path = Path(config.folder, text)
            if os.sep in text and path.suffix != ".gguf" and os.path.isfile(path):
                yield path


def _changes(path: Path) -> tuple[int, int]:
    with contextlib.suppress(OSError):
        info = path.stat()
        return info.st_size, info.st_mtime_ns
    return -1, 0


if sys.platform != "win32":
    import fcntl

PREFIX, SUFFIX = "slotproxy-", ".bin"
BESIDE, NEW = ".json", ".new"  # ends of the name of a sidecar, and of one that is being written
VAIN = "vain.json"
LOCK = ".slotproxy.lock"
LARGEST = 1 << 16  # bytes of a sidecar
MOST = 4096  # sidecars of a folder
LASTING = 30 * 86400.0  # seconds for which the files of a model that is not used are kept


def sidecars(folder: Path, model: str = "") -> list[Sidecar]:
    """Those in a folder that fit their slot files, of one model or of all."""
    return [
        sidecar
        for sidecar in run_in_native_thread(partial(_sidecars, folder))
        if model in ("", sidecar.model)
    ]


def _sidecars(folder: Path) -> list[Sidecar]:
    newest: list[tuple[float, str]] = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX) and entry.name.endswith(SUFFIX + BESIDE):
                with contextlib.suppress(OSError):  # it is gone
                    newest.append((entry.stat(follow_symlinks=False).st_mtime, entry.name))
    fitting = []
    for _, name in sorted(newest, reverse=True)[:MOST]:
        sidecar = _read(folder / name, Sidecar)
        if sidecar is None or sidecar.prompt.file + BESIDE != name:
            continue
        if sidecar.file == of_file(folder / sidecar.prompt.file):
            fitting.append(sidecar)
    return fitting


def _read(path: Path, kind: type[T]) -> T | None:
    """What a JSON file says, None if it is missing, too large or broken. Never waits for what a
    name that is no plain file would give."""
    with contextlib.suppress(OSError, msgspec.MsgspecError, ValueError):
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:
            text = file.read(LARGEST + 1)
        if len(text) <= LARGEST:
            return msgspec.json.decode(text, type=kind)
    return None


class SlotFolder:
    """Creates the folder if necessary. Raises OSError: a BlockingIOError if another gateway uses
    it."""

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

    def __truediv__(self, file: str) -> Path:
        return self.path / file

    def create(self, file: str) -> None:
        """Create an empty private file, whose mode stays when a server overwrites it. Raises
        OSError."""
        self.remove((file,))
        os.close(os.open(self.path / file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))

    def remove(self, files: Iterable[str]) -> None:
        """Remove slot files with their sidecars."""
        for file in files:
            for name in (file + BESIDE, file):
                with contextlib.suppress(OSError):
                    (self.path / name).unlink()

    def describe(self, files: Mapping[str, Sidecar]) -> None:
        """Write the sidecars of slot files. Raises OSError."""

        def work() -> None:
            for file, sidecar in files.items():
                self._write(file + BESIDE, msgspec.json.encode(sidecar))

        run_in_native_thread(work)

    def vain(self, beginning: str) -> Vain:
        """What was noted of the model whose files begin so."""
        return _read(self.path / (beginning + VAIN), Vain) or Vain(command="", count=0)

    def note(self, beginning: str, vain: Vain) -> None:
        """Replace that. Raises OSError."""
        if vain.count:
            self._write(beginning + VAIN, msgspec.json.encode(vain))
        else:
            (self.path / (beginning + VAIN)).unlink(missing_ok=True)

    def _write(self, name: str, text: bytes) -> None:
        """Write a private file whole or not at all."""
        new = self.path / (name + NEW)
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with open(descriptor, "wb") as file:
            file.write(text)
        new.replace(self.path / name)

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
        """Remove the slot files of all models that no sidecar fits, or that were not used for
        long."""
        now = time.time()
        self.sweep({s.prompt.file for s in sidecars(self.path) if now - s.saved < LASTING})
        for path in self.path.glob(f"{PREFIX}*{VAIN}"):
            with contextlib.suppress(OSError):
                if now - path.lstat().st_mtime >= LASTING:
                    path.unlink()

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
