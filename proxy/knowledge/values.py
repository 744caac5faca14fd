"""What knowledge is made of: bases hold documents, documents hold chunks. Times are seconds since
1970; ids are opaque, and ours."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

State = Literal["queued", "reading", "ready", "failed", "cancelled"]


class Splitting(Struct, frozen=True):
    """Chunks have at most `size` characters, and repeat `overlap` of the one before."""

    size: int = 600
    overlap: int = 80


class Base(Struct, frozen=True):
    """A knowledge base. `embedding_model` "": the embedding backend's own. `temporary`: of a chat,
    and forgotten at `expires`."""

    id: str
    name: str
    info: str = ""
    embedding_model: str = ""
    created: float = 0.0
    temporary: bool = False
    expires: float | None = None
    documents: int = 0


class Document(Struct, frozen=True):
    """A file in a base. `size` in bytes; `done` is the share of it that was read, from 0 to 1;
    `chunks` how many it gave so far; `error` says why it failed."""

    id: str
    base_id: str
    filename: str
    size: int
    status: State = "queued"
    error: str = ""
    done: float = 0.0
    chunks: int = 0
    created: float = 0.0
    splitting: Splitting = Splitting()
    job_id: str = ""


class Chunk(Struct, frozen=True):
    """A piece of a document: its `number` counts from 0, `place` says in words where it stands
    (page 3, a heading, lines)."""

    id: str
    document_id: str
    base_id: str
    number: int
    text: str
    place: str = ""


class Hit(Struct, frozen=True):
    """A chunk that was found. `score` from 0 to 1, larger is nearer (OpenAI's meaning); `distance`
    from 0 to 2, smaller is nearer (Chatchat's). `lexical_rank` and `vector_rank` are its places by
    words and by meaning before both were fused: 1 is the best, 0 is none."""

    chunk_id: str
    document_id: str
    base_id: str
    filename: str
    text: str
    place: str
    score: float
    distance: float
    lexical_rank: int = 0
    vector_rank: int = 0


class Job(Struct, frozen=True):
    """Documents of a base being read anew: `done` of `total` are over, `failed` of them failed."""

    id: str
    base_id: str
    kind: Literal["rebuild"]
    status: Literal["running", "done", "cancelled"]
    total: int
    done: int
    failed: int
    created: float
