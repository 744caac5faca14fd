"""OpenAI's vector store objects: builds the answers.

The format is defined in OpenAI's API reference and the types of its client. Times are in seconds
since 1970, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from .attribute_filters import Attributes
from .vector_stores import STATUSES, Chunking


class FileCounts(Struct, frozen=True):
    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        return self.in_progress + self.completed + self.failed + self.cancelled


class SearchResult(Struct, frozen=True, kw_only=True):
    """A chunk that matches."""

    file_id: str
    filename: str
    attributes: Attributes
    score: float
    text: str
    place: str = ""


def counts(statuses: Sequence[str]) -> FileCounts:
    return FileCounts(*(statuses.count(status) for status in STATUSES))


def store(
    store_id: str,
    name: str,
    description: str,
    created: float,
    active: float,
    lasts: int | None,
    expired: bool,
    size: int,
    kept: Mapping[str, str],
    files: FileCounts,
) -> dict[str, Any]:
    """A vector store. Times are in seconds since 1970, `size` in bytes, `lasts` in days."""
    status = "expired" if expired else "in_progress" if files.in_progress else "completed"
    return {
        "id": store_id,
        "object": "vector_store",
        "created_at": int(created),
        "name": name,
        "description": description or None,
        "usage_bytes": size,
        "file_counts": _counts(files),
        "status": status,
        "expires_after": {"anchor": "last_active_at", "days": lasts} if lasts else None,
        "expires_at": int(active) + lasts * 86400 if lasts else None,
        "last_active_at": int(active),
        "metadata": dict(kept),
    }


def store_file(
    file_id: str,
    store_id: str,
    created: float,
    status: str,
    reason: str,
    size: int,
    kept: Attributes,
    chunking: Chunking,
) -> dict[str, Any]:
    """A file in a vector store; `reason` says why it failed."""
    return {
        "id": file_id,
        "object": "vector_store.file",
        "created_at": int(created),
        "vector_store_id": store_id,
        "status": status,
        "last_error": {"code": "invalid_file", "message": reason} if status == "failed" else None,
        "usage_bytes": size,
        "attributes": dict(kept),
        "chunking_strategy": {
            "type": "static",
            "static": {
                "max_chunk_size_tokens": chunking.tokens,
                "chunk_overlap_tokens": chunking.overlap,
            },
        },
    }


def batch(
    batch_id: str, store_id: str, created: float, files: FileCounts, cancelled: bool
) -> dict[str, Any]:
    if cancelled:
        status = "cancelled"
    elif files.in_progress:
        status = "in_progress"
    else:
        status = "failed" if files.failed and files.failed == files.total else "completed"
    return {
        "id": batch_id,
        "object": "vector_store.files_batch",
        "created_at": int(created),
        "vector_store_id": store_id,
        "status": status,
        "file_counts": _counts(files),
    }


def results(queries: Sequence[str], found: Sequence[SearchResult]) -> dict[str, Any]:
    """The search results, always on one page. `place` (page 3, a heading) is our own field."""
    return {
        "object": "vector_store.search_results.page",
        "search_query": list(queries),
        "data": [
            {
                "file_id": chunk.file_id,
                "filename": chunk.filename,
                "score": chunk.score,
                "attributes": dict(chunk.attributes),
                "content": [{"type": "text", "text": chunk.text}],
                "place": chunk.place,
            }
            for chunk in found
        ],
        "has_more": False,
        "next_page": None,
    }


def content(texts: Sequence[str]) -> dict[str, Any]:
    """A file as its chunks, in order."""
    return {
        "object": "vector_store.file_content.page",
        "data": [{"type": "text", "text": chunk} for chunk in texts],
        "has_more": False,
        "next_page": None,
    }


def deleted(key: str, what: str) -> dict[str, Any]:
    """`what` is vector_store or vector_store.file."""
    return {"id": key, "object": f"{what}.deleted", "deleted": True}


def _counts(files: FileCounts) -> dict[str, int]:
    return {**{status: getattr(files, status) for status in STATUSES}, "total": files.total}
