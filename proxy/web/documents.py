"""Documents within the body of a request become their texts before it is parsed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..apis.attachments import attachments
from ..errors import NotFound
from .fastpath import Environ
from .observability import Record
from .services import Services


def with_documents(
    services: Services, record: Record, environ: Environ, body: Mapping[str, Any]
) -> None:
    """Replace the documents of a request by their texts; those that cannot be read get a warning.
    Raises QueueFull, StoreUnavailable and LimitReached."""
    documents = attachments(body)
    if not documents:
        return

    def uploaded(file_id: str) -> tuple[str, Callable[[], bytes]]:
        if services.vector_stores is None:
            raise NotFound("the gateway stores no files")
        file, data = services.vector_stores.content(record.key, file_id)
        return file.filename, lambda: b"".join(data)

    def check_limits() -> None:
        allowance = services.callers.caller(record.key, environ).allowance
        if allowance is not None:
            allowance.check()  # documents are read before the answer is admitted

    record.warnings += services.documents.read(documents, record.key, uploaded, check_limits)
