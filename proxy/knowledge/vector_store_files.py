"""Files in vector stores: a document, together with its data in OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ..store.file_store import Attached, StoredFile
from ..store.records import Document

STATUS = {"ready": "completed", "failed": "failed", "cancelled": "cancelled"}


class VectorStoreFile(Struct, frozen=True, kw_only=True):
    """A file in a vector store, with its document. `status` is OpenAI's: in_progress, completed,
    failed or cancelled."""

    file_id: str
    filename: str
    status: str
    reason: str
    size: int
    created: float
    document_id: str
    attributes: Mapping[str, Any] = {}
    tokens: int = 0
    overlap: int = 0
    batch_id: str = ""


def from_document(document: Document) -> VectorStoreFile:
    """Convert a document that was added through another API."""
    return VectorStoreFile(
        file_id=document.id,
        filename=document.filename,
        status=STATUS.get(document.status, "in_progress"),
        reason=document.error,
        size=document.size,
        created=document.created,
        document_id=document.id,
    )


def from_attached(document: Document, attached: Attached) -> VectorStoreFile:
    return _with_attributes(from_document(document), attached)


def refused(file: StoredFile, attached: Attached) -> VectorStoreFile:
    """Return a file that could not become a document."""
    failed = VectorStoreFile(
        file_id=file.file_id,
        filename=file.filename,
        status="failed",
        reason=attached.error,
        size=file.size,
        created=attached.created,
        document_id="",
    )
    return _with_attributes(failed, attached)


def _with_attributes(file: VectorStoreFile, attached: Attached) -> VectorStoreFile:
    return replace(
        file,
        file_id=attached.file_id,
        created=attached.created,
        attributes=attached.attributes,
        tokens=attached.tokens,
        overlap=attached.overlap,
        batch_id=attached.batch_id,
    )
