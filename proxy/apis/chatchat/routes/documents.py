"""Routes for files of knowledge bases (upload, list, reload, download, delete), and for files
uploaded to a chat.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from flask import Response, request

from ....errors import InvalidParameter
from ....web.form import MultipartForm, read_form
from ....web.observability import Record
from ....web.services import Services
from ....web.spine import passthrough
from .. import bases
from ..answer import error_of_list, files_failed, ok
from .knowledge_bases import OwnerBases
from .view import api, json_body, route

blueprint = api("files", __name__, url_prefix="/knowledge_base")

# Media types under which browsers may show an uploaded file: none of them can run scripts.
SHOWN = {"pdf": "application/pdf", "txt": "text/plain", "md": "text/plain", "csv": "text/plain"}
SANDBOX = ("Content-Security-Policy", "sandbox")


@route(blueprint, "GET", "/list_files", shape=error_of_list)
def listed(services: Services, record: Record) -> Any:
    """The documents of a base."""
    return ok(OwnerBases(services, record.key).shelf(_asked_base()).names())


@route(blueprint, "POST", "/upload_docs", body="ChatchatDocuments")
def upload(services: Services, record: Record) -> Any:
    """Upload documents."""
    with _form(services) as form:
        wanted = bases.upload(form.fields)
        shelf = OwnerBases(services, record.key).shelf(wanted.base)
        failed = shelf.add(
            [one for one in form.files if one.name not in wanted.pieces],
            wanted.cut,
            replace=wanted.override,
        )
    failed += shelf.write(wanted.pieces)
    if not wanted.indexed:
        shelf.hide(one.name for one in form.files)
    return files_failed(failed, "files uploaded")


@route(blueprint, "POST", "/upload_temp_docs", body="ChatchatChatFiles")
def upload_temporary(services: Services, record: Record) -> Any:
    """Upload documents for a chat about files."""
    with _form(services) as form:
        wanted = bases.temporary(form.fields)
        shelf = OwnerBases(services, record.key).temporary(wanted.base)
        failed = shelf.add(form.files, wanted.cut, replace=True)
    return ok({"id": shelf.id, "failed_files": [{name: why} for name, why in failed]})


@route(blueprint, "POST", "/delete_docs", body="ChatchatDelete")
def delete(services: Services, record: Record) -> Any:
    """Delete documents."""
    wanted = bases.delete(json_body(services))
    shelf = OwnerBases(services, record.key).shelf(wanted.base)
    failed = shelf.remove(wanted.files) if wanted.content else shelf.hide(wanted.files)
    return files_failed(failed, "files deleted")


@route(blueprint, "POST", "/update_docs", body="ChatchatUpdate")
def update(services: Services, record: Record) -> Any:
    """Read documents again."""
    wanted = bases.update(json_body(services))
    shelf = OwnerBases(services, record.key).shelf(wanted.base)
    failed = shelf.again([one for one in wanted.files if one not in wanted.pieces], wanted.cut)
    failed += shelf.write(wanted.pieces)
    return files_failed(failed, "files will be read again")


@route(blueprint, "GET", "/download_doc", answer="application/octet-stream")
def download(services: Services, record: Record) -> Response:
    """A document as it came.

    With `preview`, browsers show it in place if its type is safe."""
    shelf = OwnerBases(services, record.key).shelf(_asked_base())
    name, size, data = shelf.original(_asked("file_name"))
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
