"""OpenAI's files API: upload, list, read and delete. The format is defined in its API reference and
the types of its client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flask import Response, request

from ...errors import InvalidParameter
from ...web.form import read_form
from ...web.observability import Record
from ...web.routes import Api
from ...web.services import Services
from ...web.spine import passthrough, v1_route
from .. import schema_fields as doc
from ..fields import choice, decimal, page_of
from ..schema_fields import Schema
from ..vector_stores.request import LATEST, SOONEST
from ..vector_stores.routes import opened

if TYPE_CHECKING:  # it imports SQLAlchemy
    from ...store.file_store import StoredFile

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
MOST_LISTED = 10_000
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
blueprint = Api("files", __name__, group="files", tag="OpenAI: files", schemas=SCHEMAS)


def parse(form: Mapping[str, str], filename: str | None) -> tuple[str, str, int | None]:
    """Parses a multipart form: the name of the file, its purpose, and for how many seconds it is
    kept, None until it is deleted. `filename` is None if the form has no `file`. Raises
    InvalidParameter."""
    if filename is None:
        raise InvalidParameter("file", "is missing")
    purpose = choice(form, "purpose", PURPOSES)
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


@v1_route(blueprint, "POST", "/files", body="FileUploadForm")
def upload(services: Services, record: Record) -> Any:
    """Upload a file."""
    bounds = services.settings.max_document, services.settings.max_body
    with read_form(request.environ, *bounds) as form:
        part = next((part for part in form.files if part.field == "file"), None)
        name, purpose, lasts = parse(form.fields, part and part.name)
        assert part is not None, "the parser rejects a form without one"
        return _reply(opened(services).upload(record.key, name, purpose, part.data, lasts))


@v1_route(blueprint, "GET", "/files")
def listed(services: Services, record: Record) -> Any:
    """The files of the key."""
    purpose = request.args.get("purpose")
    files = opened(services).files(record.key)
    matching = [file for file in files if not purpose or file.purpose == purpose]
    return page_of(
        request.args, matching, lambda file: file.file_id, _reply, MOST_LISTED, MOST_LISTED
    )


@v1_route(blueprint, "GET", "/files/<key>")
def read(services: Services, record: Record, key: str) -> Any:
    """One file."""
    return _reply(opened(services).file(record.key, key))


@v1_route(blueprint, "DELETE", "/files/<key>")
def delete(services: Services, record: Record, key: str) -> Any:
    """Delete a file."""
    opened(services).delete_file(record.key, key)
    return {"id": key, "object": "file", "deleted": True}


@v1_route(blueprint, "GET", "/files/<key>/content", answer="application/octet-stream")
def content(services: Services, record: Record, key: str) -> Response:
    """The bytes of a file."""
    file, data = opened(services).content(record.key, key)
    headers = [("Content-Length", str(file.size)), ("Content-Disposition", "attachment")]
    return passthrough(data, "application/octet-stream", headers)


def _reply(file: StoredFile) -> dict[str, Any]:
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
