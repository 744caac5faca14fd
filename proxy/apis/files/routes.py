"""Routes of OpenAI's files API: upload, list, read and delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Response, request

from ...web.form import read_form
from ...web.observability import Record
from ...web.routes import Api
from ...web.services import Services
from ...web.spine import json_route, passthrough
from ..fields import page_of, page_reply
from ..vector_stores.routes import opened
from . import objects as file_objects

if TYPE_CHECKING:  # it imports SQLAlchemy
    from ...store.file_store import StoredFile

blueprint = Api("files", __name__, group="files", tag="OpenAI", schemas=file_objects.SCHEMAS)


@json_route(blueprint, "POST", "/v1/files", "/files", body="FileUploadForm")
def upload(services: Services, record: Record) -> Any:
    """Upload a file."""
    bounds = services.settings.max_document, services.settings.max_body
    with read_form(request.environ, *bounds) as form:
        part = next((part for part in form.files if part.field == "file"), None)
        name, purpose, lasts = file_objects.parse(form.fields, part and part.name)
        assert part is not None, "the parser rejects a form without one"
        return _reply(opened(services).upload(record.key, name, purpose, part.data, lasts))


@json_route(blueprint, "GET", "/v1/files", "/files")
def listed(services: Services, record: Record) -> Any:
    """The files of the key."""
    page = page_of(request.args, file_objects.MOST_LISTED, file_objects.MOST_LISTED)
    purpose = request.args.get("purpose")
    files = opened(services).files(record.key)
    wanted = [file for file in files if not purpose or file.purpose == purpose]
    return page_reply(page, wanted, lambda file: file.file_id, _reply)


@json_route(blueprint, "GET", "/v1/files/<key>", "/files/<key>")
def read(services: Services, record: Record, key: str) -> Any:
    """One file."""
    return _reply(opened(services).file(record.key, key))


@json_route(blueprint, "DELETE", "/v1/files/<key>", "/files/<key>")
def delete(services: Services, record: Record, key: str) -> Any:
    """Delete a file."""
    opened(services).delete_file(record.key, key)
    return {"id": key, "object": "file", "deleted": True}


@json_route(
    blueprint,
    "GET",
    "/v1/files/<key>/content",
    "/files/<key>/content",
    answer="application/octet-stream",
)
def content(services: Services, record: Record, key: str) -> Response:
    """The bytes of a file.

    Its headers keep browsers from running them."""
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
