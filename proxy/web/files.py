"""OpenAI's files: uploaded, listed, read, deleted."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request

from ..dialects import files, listing, openai
from ..errors import GatewayError
from .exchange import plain, refuse
from .form import read_form
from .observe import Record
from .reply import Reply
from .services import Services, services
from .vector_stores import opened

blueprint = Blueprint("files", __name__)


@blueprint.post("/v1/files")
@blueprint.post("/files")
def upload() -> Response:
    def view(here: Services, record: Record) -> Any:
        bounds = here.settings.max_document, here.settings.max_body
        with read_form(request.environ, *bounds) as form:
            sent = next((one for one in form.files if one.field == "file"), None)
            asked = files.parse(form.fields, None if sent is None else sent.name)
            assert sent is not None, "parse refuses a form without one"
            kept = opened(here).upload(
                record.key, asked.filename, asked.purpose, sent.data, asked.lasts
            )
        return files.reply(kept)

    return plain(view)


@blueprint.get("/v1/files")
@blueprint.get("/files")
def listed() -> Response:
    def view(here: Services, record: Record) -> Any:
        page = listing.parse(request.args, files.MOST_LISTED, files.MOST_LISTED)
        purpose = request.args.get("purpose")
        found = opened(here).files(record.key)
        wanted = [one for one in found if not purpose or one.purpose == purpose]
        return listing.reply(page, wanted, lambda one: one.file_id, files.reply)

    return plain(view)


@blueprint.get("/v1/files/<key>")
@blueprint.get("/files/<key>")
def read(key: str) -> Response:
    return plain(lambda here, record: files.reply(opened(here).file(record.key, key)))


@blueprint.delete("/v1/files/<key>")
@blueprint.delete("/files/<key>")
def delete(key: str) -> Response:
    def view(here: Services, record: Record) -> Any:
        opened(here).delete_file(record.key, key)
        return files.deleted(key)

    return plain(view)


@blueprint.get("/v1/files/<key>/content")
@blueprint.get("/files/<key>/content")
def content(key: str) -> Response:
    """The bytes as they came. They are a stranger's: nothing that a browser would run."""
    here = services()
    record = Record.of(request.environ)
    try:
        record.key = here.keys.check(request.environ)
        file, data = opened(here).content(record.key, key)
    except GatewayError as error:
        return refuse(error, openai.error, record)
    headers = [
        *record.headers(),
        ("Content-Length", str(file.size)),
        ("Content-Disposition", "attachment"),
        ("X-Content-Type-Options", "nosniff"),
    ]
    return Reply(data, "application/octet-stream", headers)
