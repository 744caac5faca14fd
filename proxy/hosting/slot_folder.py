"""A folder of saved slots: its files are this gateway's alone, and only its user can read them."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path

import msgspec

from ..backends.driver import Capabilities
from ..config import ModelConfig
from ..runtime import private_files
from . import estimate

# Whether a saved slot fits a server, and whether a file is still the one that was written.
SERVER_VARIABLES = ("LLAMA_", "GGML_")  # prefixes of those that change what a server does
SIZE = 16  # bytes of a digest


def of_command(config: ModelConfig) -> bytes:
    """The digest of all that must be the same for a slot to be restored: the words of the command
    (model, LoRA, context, cache types, …), its environment, and the files that it names with their
    sizes and times, the program included."""
    inherited = sorted(item for item in os.environ.items() if item[0].startswith(SERVER_VARIABLES))
    others = [(str(path), *_changes(path)) for path in _files(config)]
    seen = (estimate.fingerprint(config), config.folder, inherited, others)
    return blake2b(msgspec.msgpack.encode(seen), digest_size=SIZE).digest()


def with_build(command: bytes, caps: Capabilities) -> bytes:
    """The digest of a server that runs, with what it says about itself."""
    about = msgspec.msgpack.encode((caps.build, caps.n_ctx, caps.n_vocab, caps.models))
    return blake2b(command + about, digest_size=SIZE).digest()


def of_file(path: Path) -> bytes:
    """The identity of a file: its place on the disk, its size and its times. The time of the last
    change of its state (ctime) cannot be set, so every later write shows. b"" if there is none."""
    with contextlib.suppress(OSError):
        info = path.lstat()
        seen = info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns
        return msgspec.msgpack.encode(seen)
    return b""


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
LOCK = ".slotproxy.lock"


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
        for file in files:
            with contextlib.suppress(OSError):
                (self.path / file).unlink()

    def sweep(self, keep: Collection[str], beginning: str = PREFIX) -> int:
        """Remove our files that begin so, but for those to keep. Returns their number."""
        going = [
            name
            for name in os.listdir(self.path)
            if name.startswith(beginning) and name.endswith(SUFFIX) and name not in keep
        ]
        self.remove(going)
        return len(going)

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
