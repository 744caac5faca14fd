"""Routes for files of knowledge bases (upload, list, reload, download, delete), and for files
uploaded to a chat.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from flask import Blueprint, Response, request

from ...dialects.chatchat import bases, reply
from ...errors import GatewayError, InvalidParameter
from ..form import MultipartForm, read_form
from ..observability import Record
from ..services import Services, current_services
from ..spine import passthrough
from .knowledge_bases import OwnerBases, UploadedFile
from .view import asked as body
from .view import json_view, owner, refused

blueprint = Blueprint("files", __name__, url_prefix="/knowledge_base")

# Media types under which browsers may show an uploaded file: none of them can run scripts.
SHOWN = {"pdf": "application/pdf", "txt": "text/plain", "md": "text/plain", "csv": "text/plain"}
SANDBOX = ("Content-Security-Policy", "sandbox")


@blueprint.get("/list_files")
def listed() -> Response:
    def view(services: Services, record: Record) -> Any:
        return reply.ok(OwnerBases(services, record.key).shelf(_asked_base()).names())

    return json_view(view, reply.error_of_list)


@blueprint.post("/upload_docs")
def upload() -> Response:
    def view(services: Services, record: Record) -> Any:
        with _form(services) as form:
            wanted = bases.upload(form.fields)
            shelf = OwnerBases(services, record.key).shelf(wanted.base)
            uploads = [UploadedFile(one.name, one.data) for one in form.files]
            failed = shelf.add(
                [one for one in uploads if one.name not in wanted.pieces],
                wanted.cut,
                replace=wanted.override,
            )
        failed += shelf.write(wanted.pieces)
        if not wanted.indexed:
            shelf.hide(one.name for one in uploads)
        return reply.failed(failed, "files uploaded")

    return json_view(view)


@blueprint.post("/upload_temp_docs")
def upload_temporary() -> Response:
    def view(services: Services, record: Record) -> Any:
        with _form(services) as form:
            wanted = bases.temporary(form.fields)
            shelf = OwnerBases(services, record.key).temporary(wanted.base)
            uploads = [UploadedFile(one.name, one.data) for one in form.files]
            failed = shelf.add(uploads, wanted.cut, replace=True)
        return reply.ok({"id": shelf.id, "failed_files": [{name: why} for name, why in failed]})

    return json_view(view)


@blueprint.post("/delete_docs")
def delete() -> Response:
    def view(services: Services, record: Record) -> Any:
        wanted = bases.delete(body(services))
        shelf = OwnerBases(services, record.key).shelf(wanted.base)
        failed = shelf.remove(wanted.files) if wanted.content else shelf.hide(wanted.files)
        return reply.failed(failed, "files deleted")

    return json_view(view)


@blueprint.post("/update_docs")
def update() -> Response:
    def view(services: Services, record: Record) -> Any:
        wanted = bases.update(body(services))
        shelf = OwnerBases(services, record.key).shelf(wanted.base)
        failed = shelf.again([one for one in wanted.files if one not in wanted.pieces], wanted.cut)
        failed += shelf.write(wanted.pieces)
        return reply.failed(failed, "files will be read again")

    return json_view(view)


@blueprint.get("/download_doc")
def download() -> Response:
    """Return the file. With `preview`, browsers show it in place if its type is safe."""
    services = current_services()
    record = Record.of(request.environ)
    try:
        record.key = owner(services, request.environ)
        shelf = OwnerBases(services, record.key).shelf(_asked_base())
        name, size, data = shelf.original(_asked("file_name"))
    except GatewayError as error:
        return refused(error, reply.error, record)
    kind = SHOWN.get(name.rpartition(".")[2].lower(), "")
    shown = kind and request.args.get("preview", "").lower() in ("true", "1")
    disposition = f"{'inline' if shown else 'attachment'}; filename*=UTF-8''{quote(name, safe='')}"
    headers = [
        ("Content-Length", str(size)),
        ("Content-Disposition", disposition),
        SANDBOX,
    ]
    return passthrough(data, kind if shown else "application/octet-stream", headers)


def _form(services: Services) -> MultipartForm:
    return read_form(request.environ, services.settings.max_document, services.settings.max_body)


def _asked_base() -> str:
    return _asked("knowledge_base_name")


def _asked(name: str) -> str:
    value = request.args.get(name, "")
    if not value:
        raise InvalidParameter(name, "is missing")
    return value
