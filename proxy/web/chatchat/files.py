"""Files of knowledge bases: uploaded, listed, read anew, downloaded, deleted; and those dropped
into a chat."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from flask import Blueprint, Response, request

from ...core.invalid import Invalid
from ...dialects.chatchat import bases, reply
from ...errors import GatewayError
from ..form import Form, read_form
from ..observe import Record
from ..reply import Reply
from ..services import Services, services
from .library import Library, Upload
from .view import asked as body
from .view import owner, plain, refused

blueprint = Blueprint("files", __name__, url_prefix="/knowledge_base")

# What a browser may show of a file somebody uploaded: nothing that could run on our own pages.
SHOWN = {"pdf": "application/pdf", "txt": "text/plain", "md": "text/plain", "csv": "text/plain"}
SAFE = [("X-Content-Type-Options", "nosniff"), ("Content-Security-Policy", "sandbox")]


@blueprint.get("/list_files")
def listed() -> Response:
    def view(here: Services, record: Record) -> Any:
        return reply.ok(Library(here, record.key).shelf(_asked_base()).names())

    return plain(view, reply.error_of_list)


@blueprint.post("/upload_docs")
def upload() -> Response:
    def view(here: Services, record: Record) -> Any:
        with _form(here) as form:
            wanted = bases.upload(form.fields)
            shelf = Library(here, record.key).shelf(wanted.base)
            uploads = [Upload(one.name, one.data) for one in form.files]
            failed = shelf.add(
                [one for one in uploads if one.name not in wanted.pieces],
                wanted.cut,
                replace=wanted.override,
            )
        failed += shelf.write(wanted.pieces)
        if not wanted.indexed:
            shelf.hide(one.name for one in uploads)
        return reply.failed(failed, "the files are uploaded")

    return plain(view)


@blueprint.post("/upload_temp_docs")
def upload_temporary() -> Response:
    def view(here: Services, record: Record) -> Any:
        with _form(here) as form:
            wanted = bases.temporary(form.fields)
            shelf = Library(here, record.key).temporary(wanted.base)
            uploads = [Upload(one.name, one.data) for one in form.files]
            failed = shelf.add(uploads, wanted.cut, replace=True)
        return reply.ok({"id": shelf.id, "failed_files": [{name: why} for name, why in failed]})

    return plain(view)


@blueprint.post("/delete_docs")
def delete() -> Response:
    def view(here: Services, record: Record) -> Any:
        wanted = bases.delete(body(here))
        shelf = Library(here, record.key).shelf(wanted.base)
        failed = shelf.remove(wanted.files) if wanted.content else shelf.hide(wanted.files)
        return reply.failed(failed, "the files are deleted")

    return plain(view)


@blueprint.post("/update_docs")
def update() -> Response:
    def view(here: Services, record: Record) -> Any:
        wanted = bases.update(body(here))
        shelf = Library(here, record.key).shelf(wanted.base)
        failed = shelf.again([one for one in wanted.files if one not in wanted.pieces], wanted.cut)
        failed += shelf.write(wanted.pieces)
        return reply.failed(failed, "the files are read anew")

    return plain(view)


@blueprint.get("/download_doc")
def download() -> Response:
    """The file itself; with `preview`, to be shown by a browser where that is safe."""
    here = services()
    record = Record.of(request.environ)
    try:
        record.key = owner(here, request.environ)
        shelf = Library(here, record.key).shelf(_asked_base())
        name, size, data = shelf.original(_asked("file_name"))
    except (GatewayError, Invalid) as error:
        return refused(error, record)
    kind = SHOWN.get(name.rpartition(".")[2].lower(), "")
    shown = kind and request.args.get("preview", "").lower() in ("true", "1")
    disposition = f"{'inline' if shown else 'attachment'}; filename*=UTF-8''{quote(name, safe='')}"
    headers = [
        *record.headers(),
        ("Content-Length", str(size)),
        ("Content-Disposition", disposition),
        *SAFE,
    ]
    return Reply(data, kind if shown else "application/octet-stream", headers)


def _form(here: Services) -> Form:
    return read_form(request.environ, here.settings.max_document, here.settings.max_body)


def _asked_base() -> str:
    return _asked("knowledge_base_name")


def _asked(name: str) -> str:
    value = request.args.get(name, "")
    if not value:
        raise Invalid(name, "is missing")
    return value
