"""Whether a saved slot fits a server, and whether a file is still the one that was written."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import msgspec

from ..backends.driver import Capabilities
from ..config import ModelConfig
from . import estimate

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
