"""OpenAI's vector stores: the objects a client is answered with.

The source of the shapes is OpenAI's API reference and its client's types. Times are seconds since
1970, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from .attribute_filters import Attributes
from .vector_stores import STATUSES, Chunking


class Counts(Struct, frozen=True):
    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        return self.in_progress + self.completed + self.failed + self.cancelled


class Result(Struct, frozen=True):
    """A chunk that was found."""

    file_id: str
    filename: str
    attributes: Attributes
    score: float
    text: str
    place: str = ""


def counts(statuses: Sequence[str]) -> Counts:
    return Counts(*(statuses.count(status) for status in STATUSES))


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
    files: Counts,
) -> dict[str, Any]:
    """A vector store. Times in seconds since 1970, `size` in bytes, `lasts` in days."""
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
    """A file in a vector store. `reason`: why it failed."""
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
    batch_id: str, store_id: str, created: float, files: Counts, cancelled: bool
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


def results(queries: Sequence[str], found: Sequence[Result]) -> dict[str, Any]:
    """One page, which is all there is. The place (page 3, a heading) is ours, beside the file."""
    return {
        "object": "vector_store.search_results.page",
        "search_query": list(queries),
        "data": [
            {
                "file_id": one.file_id,
                "filename": one.filename,
                "score": one.score,
                "attributes": dict(one.attributes),
                "content": [{"type": "text", "text": one.text}],
                "place": one.place,
            }
            for one in found
        ],
        "has_more": False,
        "next_page": None,
    }


def content(texts: Sequence[str]) -> dict[str, Any]:
    """A file as its chunks, in their order."""
    return {
        "object": "vector_store.file_content.page",
        "data": [{"type": "text", "text": one} for one in texts],
        "has_more": False,
        "next_page": None,
    }


def deleted(key: str, what: str) -> dict[str, Any]:
    """`what` is vector_store or vector_store.file."""
    return {"id": key, "object": f"{what}.deleted", "deleted": True}


def _counts(files: Counts) -> dict[str, int]:
    return {**{status: getattr(files, status) for status in STATUSES}, "total": files.total}
