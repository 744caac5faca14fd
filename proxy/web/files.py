"""Routes of OpenAI's files API: upload, list, read and delete."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request

from ..dialects import file_objects, listing, openai
from ..errors import GatewayError
from .form import read_form
from .observability import Record
from .services import Services, current_services
from .spine import json_view, passthrough, refuse
from .vector_stores import opened

blueprint = Blueprint("files", __name__)


@blueprint.post("/v1/files")
@blueprint.post("/files")
def upload() -> Response:
    def view(services: Services, record: Record) -> Any:
        bounds = services.settings.max_document, services.settings.max_body
        with read_form(request.environ, *bounds) as form:
            sent = next((one for one in form.files if one.field == "file"), None)
            asked = file_objects.parse(form.fields, None if sent is None else sent.name)
            assert sent is not None, "the parser rejects a form without one"
            kept = opened(services).upload(
                record.key, asked.filename, asked.purpose, sent.data, asked.lasts
            )
        return file_objects.reply(kept)

    return json_view(view)


@blueprint.get("/v1/files")
@blueprint.get("/files")
def listed() -> Response:
    def view(services: Services, record: Record) -> Any:
        page = listing.parse(request.args, file_objects.MOST_LISTED, file_objects.MOST_LISTED)
        purpose = request.args.get("purpose")
        files = opened(services).files(record.key)
        wanted = [one for one in files if not purpose or one.purpose == purpose]
        return listing.reply(page, wanted, lambda one: one.file_id, file_objects.reply)

    return json_view(view)


@blueprint.get("/v1/files/<key>")
@blueprint.get("/files/<key>")
def read(key: str) -> Response:
    return json_view(
        lambda services, record: file_objects.reply(opened(services).file(record.key, key))
    )


@blueprint.delete("/v1/files/<key>")
@blueprint.delete("/files/<key>")
def delete(key: str) -> Response:
    def view(services: Services, record: Record) -> Any:
        opened(services).delete_file(record.key, key)
        return file_objects.deleted(key)

    return json_view(view)


@blueprint.get("/v1/files/<key>/content")
@blueprint.get("/files/<key>/content")
def content(key: str) -> Response:
    """Return the bytes as uploaded, with headers that keep browsers from running them."""
    services = current_services()
    record = Record.of(request.environ)
    try:
        record.key = services.keys.check(request.environ)
        file, data = opened(services).content(record.key, key)
    except GatewayError as error:
        return refuse(error, openai.error, record)
    headers = [
        ("Content-Length", str(file.size)),
        ("Content-Disposition", "attachment"),
    ]
    return passthrough(data, "application/octet-stream", headers)
