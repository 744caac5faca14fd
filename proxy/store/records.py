"""Records of knowledge bases and batches. Times are seconds since 1970."""

from __future__ import annotations

import os
import socket
import sys
import uuid
from typing import Any, Literal, NamedTuple

from msgspec import Struct


# A name is `host:pid:random`: on the same host, the pid shows whether the process has died.
def new_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def is_gone(writer: str) -> bool:
    """Whether the name belongs to a process of this host that has ended. False if unknown."""
    host, _, rest = writer.partition(":")
    pid = rest.partition(":")[0]
    if sys.platform == "win32" or host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except OSError as error:
        return isinstance(error, ProcessLookupError)
    return False


# Records of batches of requests, without the database. Times are seconds since 1970.
MOST = 2000  # batches of a key; the oldest finished ones make room
UNCHECKED = "validating"
OPEN = (UNCHECKED, "in_progress", "finalizing", "cancelling")


class Tokens(NamedTuple):
    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0


class RequestBatch(Struct, frozen=True, kw_only=True):
    """`times` are by the name of the status, and `expires`. Output files last `lasts` seconds."""

    id: str
    owner: str
    created: float
    endpoint: str
    file_id: str
    window: str
    times: dict[str, float]
    peer: str = ""
    status: str = "validating"
    model: str = ""
    output_file: str = ""
    error_file: str = ""
    metadata: dict[str, str] = {}
    errors: list[dict[str, Any]] = []
    lasts: int | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def tokens(self) -> Tokens:
        return Tokens(*(getattr(self, f"{name}_tokens") for name in Tokens._fields))


class Result(Struct, frozen=True):
    """The result of the line `number`, from 0: a line of the output file, or of the error file."""

    number: int
    failed: bool
    data: bytes
    tokens: Tokens = Tokens()


State = Literal["queued", "reading", "ready", "failed", "cancelled"]

PINNED = "pinned"  # true in the settings of a pinned conversation
FOLDER = "folder"  # in the settings of a conversation in a folder: the folder's name


def new_id(prefix: str) -> str:
    return prefix + uuid.uuid4().hex[:24]


class AdoptedMessage(Struct, frozen=True):
    """A message from elsewhere; `parent` is the place of its parent among the others."""

    parent: int | None
    role: Literal["user", "assistant"]
    content: str
    reasoning: str = ""
    created: float = 0.0


class Splitting(Struct, frozen=True):
    """Chunks have at most `size` characters, and repeat `overlap` of the previous chunk."""

    size: int = 600
    overlap: int = 80


class Base(Struct, frozen=True, kw_only=True):
    """A base. `embedding_model` "": the backend's own. A `temporary` one belongs to a chat."""

    id: str
    name: str
    info: str = ""
    embedding_model: str = ""
    created: float = 0.0
    temporary: bool = False
    expires: float | None = None
    documents: int = 0


class Document(Struct, frozen=True, kw_only=True):
    """A file in a base. `done` is the share read so far; `chunks` the number of chunks so far."""

    id: str
    base_id: str
    filename: str
    size: int
    status: State = "queued"
    error: str = ""
    done: float = 0.0
    chunks: int = 0
    created: float = 0.0
    chunk_size: int = 600
    chunk_overlap: int = 80
    job_id: str = ""

    @property
    def splitting(self) -> Splitting:
        return Splitting(self.chunk_size, self.chunk_overlap)


class Chunk(Struct, frozen=True, kw_only=True):
    """A part of a document. `place` describes its location (page 3, a heading, lines)."""

    id: str
    document_id: str
    base_id: str
    number: int
    text: str
    place: str = ""


class Job(Struct, frozen=True, kw_only=True):
    """A job that reads documents of a base again: `done` of `total` are finished."""

    id: str
    base_id: str
    kind: Literal["rebuild"]
    status: Literal["running", "done"]
    total: int
    done: int
    failed: int
    created: float
