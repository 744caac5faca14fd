"""A file in a vector store, made of a document and of what OpenAI's API says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ..store.files import Attached, File
from .values import Document

STATUS = {"ready": "completed", "failed": "failed", "cancelled": "cancelled"}


class Member(Struct, frozen=True):
    """A file in a vector store: how it was put there, and the document that it became. `status` is
    OpenAI's: in_progress, completed, failed or cancelled."""

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


def put_in(document: Document) -> Member:
    """A document that came in another way."""
    return Member(
        document.id,
        document.filename,
        STATUS.get(document.status, "in_progress"),
        document.error,
        document.size,
        document.created,
        document.id,
    )


def as_file(document: Document, attached: Attached) -> Member:
    return replace(
        put_in(document),
        file_id=attached.file_id,
        created=attached.created,
        attributes=attached.attributes,
        tokens=attached.tokens,
        overlap=attached.overlap,
        batch_id=attached.batch_id,
    )


def refused(file: File, attached: Attached) -> Member:
    """A file that became no document."""
    return Member(
        file.file_id,
        file.filename,
        "failed",
        attached.error,
        file.size,
        attached.created,
        "",
        attached.attributes,
        attached.tokens,
        attached.overlap,
        attached.batch_id,
    )
