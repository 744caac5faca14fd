"""OpenAI's uploads of files, for the routes under /v1/files.

The format is defined in OpenAI's API reference and the types of its client.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import InvalidParameter
from .. import schema_fields as doc
from ..fields import decimal
from ..schema_fields import Schema

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
SOONEST, LATEST = 3600, 2_592_000  # bounds of expires_after.seconds
MOST_LISTED = 10_000


def parse(form: Mapping[str, str], filename: str | None) -> tuple[str, str, int | None]:
    """Parses a multipart form: the name of the file, its purpose, and for how many seconds it is
    kept, None until it is deleted. `filename` is None if the form has no `file`. Raises
    InvalidParameter."""
    if filename is None:
        raise InvalidParameter("file", "is missing")
    purpose = form.get("purpose") or ""
    if purpose not in PURPOSES:
        raise InvalidParameter("purpose", f"must be one of {', '.join(PURPOSES)}")
    seconds, lasts = form.get("expires_after[seconds]"), None
    if seconds is not None:
        if form.get("expires_after[anchor]") != "created_at":
            raise InvalidParameter("expires_after.anchor", "must be created_at")
        lasts = decimal(seconds, SOONEST, LATEST)
        if lasts is None:
            raise InvalidParameter(
                "expires_after.seconds", f"must be between {SOONEST} and {LATEST}"
            )
    # The last part of a path: a name is displayed, and never used as a path.
    return filename.replace("\\", "/").rpartition("/")[2] or "file", purpose, lasts


SCHEMAS: dict[str, Schema] = {
    "FileUploadForm": doc.body(
        "file purpose",
        file=doc.binary("The file."),
        purpose=doc.text("What the file is for.", PURPOSES[0], enum=list(PURPOSES)),
        **{
            "expires_after[anchor]": doc.text(
                "Needed beside expires_after[seconds].", "created_at", enum=["created_at"]
            ),
            "expires_after[seconds]": doc.count(
                "The file is deleted after this time.", SOONEST, LATEST, SOONEST
            ),
        },
    )
}
