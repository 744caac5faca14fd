"""OpenAI's files: POST and GET /v1/files, one of them, its content, its end.

The source of the shapes is OpenAI's API reference and its client's types.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from msgspec import Struct

from ..core.invalid import Invalid

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
SOONEST, LATEST = 3600, 2_592_000  # seconds until a file may expire
MOST_LISTED = 10_000
LONGEST_NAME = 255


class Upload(Struct, frozen=True):
    """What is asked of an upload. `lasts` in seconds; None: until it is deleted."""

    filename: str
    purpose: str
    lasts: int | None = None


class File(Protocol):
    """A file as it is kept. Times in seconds since 1970, `size` in bytes."""

    @property
    def file_id(self) -> str: ...
    @property
    def filename(self) -> str: ...
    @property
    def purpose(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def created(self) -> float: ...
    @property
    def expires(self) -> float | None: ...


def parse(form: Mapping[str, str], filename: str | None) -> Upload:
    """Of a multipart form; `filename` None: it has no `file`. Raises Invalid."""
    if filename is None:
        raise Invalid("file", "is missing")
    purpose = form.get("purpose") or ""
    if purpose not in PURPOSES:
        raise Invalid("purpose", f"must be one of {', '.join(PURPOSES)}")
    lasts = form.get("expires_after[seconds]")
    if lasts is not None:
        if form.get("expires_after[anchor]") != "created_at":
            raise Invalid("expires_after.anchor", "must be created_at")
        if not (lasts.isascii() and lasts.isdigit() and SOONEST <= int(lasts[:9]) <= LATEST):
            raise Invalid("expires_after.seconds", f"must be from {SOONEST} to {LATEST}")
    return Upload(plain_name(filename), purpose, None if lasts is None else int(lasts))


def plain_name(filename: str) -> str:
    """The last part of a name, without what no name needs. It is shown, and never a path."""
    last = filename.replace("\\", "/").rpartition("/")[2]
    shown = "".join(c for c in last if c.isprintable()).strip()
    if len(shown) > LONGEST_NAME:
        stem, dot, suffix = shown.rpartition(".")
        shown = stem[: LONGEST_NAME - 1 - len(suffix)] + dot + suffix if stem else shown
    return shown[:LONGEST_NAME] or "file"


def reply(file: File) -> dict[str, Any]:
    return {
        "id": file.file_id,
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created),
        "expires_at": None if file.expires is None else int(file.expires),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def deleted(file_id: str) -> dict[str, Any]:
    return {"id": file_id, "object": "file", "deleted": True}
