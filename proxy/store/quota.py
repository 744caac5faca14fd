"""How much one key may keep: files and documents, and their bytes.

It is checked in the transaction that adds one, after its row was written and before its bytes are:
where it is too much, nothing of it stays, and two that come together cannot both be the last one.
"""

from __future__ import annotations

from msgspec import Struct
from sqlalchemy import Connection, func, select

from ..errors import QuotaExceeded
from .tables import DOCUMENT, FILES


class Quota(Struct, frozen=True):
    """Of one key; `bytes` are of files and documents together. 0: any number."""

    files: int = 0
    documents: int = 0
    bytes: int = 0

    def check(self, db: Connection, owner: str) -> None:
        """Raises QuotaExceeded."""
        if not (self.files or self.documents or self.bytes):
            return
        size = func.coalesce(func.sum(FILES.c.size), 0)
        files = db.execute(select(func.count(), size).where(FILES.c.owner == owner)).one()
        size = func.coalesce(func.sum(DOCUMENT.c.size), 0)
        documents = db.execute(select(func.count(), size).where(DOCUMENT.c.owner == owner)).one()
        held = (
            (files[0], self.files, "files", "--quota-files"),
            (documents[0], self.documents, "documents", "--quota-documents"),
            (files[1] + documents[1], self.bytes, "bytes of files and documents", "--quota-bytes"),
        )
        for count, most, what, setting in held:
            if most and count > most:
                raise QuotaExceeded(
                    f"a key may keep {most} {what}: delete some, or ask for a higher {setting}"
                )
