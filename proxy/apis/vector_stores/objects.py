"""OpenAI's vector store objects: builds the answers.

The format is defined in OpenAI's API reference and the types of its client. Times are in seconds
since 1970, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .request import STATUSES, Attributes, Chunking


def counts(statuses: Sequence[str]) -> dict[str, int]:
    """How many files have each status."""
    return {**{status: statuses.count(status) for status in STATUSES}, "total": len(statuses)}


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
    files: Mapping[str, int],
) -> dict[str, Any]:
    """A vector store. Times are in seconds since 1970, `size` in bytes, `lasts` in days."""
    status = "expired" if expired else "in_progress" if files["in_progress"] else "completed"
    return {
        "id": store_id,
        "object": "vector_store",
        "created_at": int(created),
        "name": name,
        "description": description or None,
        "usage_bytes": size,
        "file_counts": files,
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
    batch_id: str, store_id: str, created: float, files: Mapping[str, int], cancelled: bool
) -> dict[str, Any]:
    if cancelled:
        status = "cancelled"
    elif files["in_progress"]:
        status = "in_progress"
    else:
        status = "failed" if 0 < files["failed"] == files["total"] else "completed"
    return {
        "id": batch_id,
        "object": "vector_store.files_batch",
        "created_at": int(created),
        "vector_store_id": store_id,
        "status": status,
        "file_counts": files,
    }


def result(
    file_id: str, filename: str, attributes: Attributes, score: float, text: str, place: str
) -> dict[str, Any]:
    """A chunk that matches. `place` (page 3, a heading) is our own field."""
    return {
        "file_id": file_id,
        "filename": filename,
        "score": score,
        "attributes": dict(attributes),
        "content": [{"type": "text", "text": text}],
        "place": place,
    }


def results(queries: Sequence[str], found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The search results, always on one page."""
    return {"search_query": list(queries), **_page("search_results", found)}


def content(texts: Sequence[str]) -> dict[str, Any]:
    """A file as its chunks, in order."""
    return _page("file_content", [{"type": "text", "text": chunk} for chunk in texts])


def _page(kind: str, data: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "object": f"vector_store.{kind}.page",
        "data": data,
        "has_more": False,
        "next_page": None,
    }


def deleted(key: str, what: str) -> dict[str, Any]:
    """`what` is vector_store or vector_store.file."""
    return {"id": key, "object": f"{what}.deleted", "deleted": True}
