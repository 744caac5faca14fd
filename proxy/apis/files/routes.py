"""Routes of OpenAI's files API: upload, list, read and delete."""

from __future__ import annotations

from typing import Any

from flask import Response, request

from ...web.form import read_form
from ...web.observability import Record
from ...web.routes import Api
from ...web.services import Services
from ...web.spine import json_route, passthrough
from ..fields import page_of
from ..vector_stores.routes import opened
from . import objects as file_objects

blueprint = Api(
    "files",
    __name__,
    group="files",
    tag="OpenAI",
    schemas=file_objects.SCHEMAS,
)


@json_route(blueprint, "POST", "/v1/files", "/files", body="FileUploadForm")
def upload(services: Services, record: Record) -> Any:
    """Upload a file."""
    bounds = services.settings.max_document, services.settings.max_body
    with read_form(request.environ, *bounds) as form:
        sent = next((one for one in form.files if one.field == "file"), None)
        asked = file_objects.parse(form.fields, None if sent is None else sent.name)
        assert sent is not None, "the parser rejects a form without one"
        kept = opened(services).upload(
            record.key, asked.filename, asked.purpose, sent.data, asked.lasts
        )
    return file_objects.reply(kept)


@json_route(blueprint, "GET", "/v1/files", "/files")
def listed(services: Services, record: Record) -> Any:
    """The files of the key."""
    most = file_objects.MOST_LISTED
    purpose = request.args.get("purpose")
    files = opened(services).files(record.key)
    wanted = [one for one in files if not purpose or one.purpose == purpose]
    reply = file_objects.reply
    return page_of(request.args, wanted, lambda one: one.file_id, reply, most, most)


@json_route(blueprint, "GET", "/v1/files/<key>", "/files/<key>")
def read(services: Services, record: Record, key: str) -> Any:
    """One file."""
    return file_objects.reply(opened(services).file(record.key, key))


@json_route(blueprint, "DELETE", "/v1/files/<key>", "/files/<key>")
def delete(services: Services, record: Record, key: str) -> Any:
    """Delete a file."""
    opened(services).delete_file(record.key, key)
    return file_objects.deleted(key)


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
    headers = [
        ("Content-Length", str(file.size)),
        ("Content-Disposition", "attachment"),
    ]
    return passthrough(data, "application/octet-stream", headers)
