"""Static files of the pages, compressed once. Pages add a digest to a file's address (`?v=`), so
that browsers may cache it for good; imports of modules are requested again."""

from __future__ import annotations

import functools
import gzip
import hashlib
import mimetypes
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from flask import Response, abort, request
from werkzeug.security import safe_join

FOLDER = Path(__file__).resolve().parents[1] / "static"
FOREVER = 365 * 24 * 3600
KINDS = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".webmanifest": "application/manifest+json",
}
PACKED = ("text/", "application/javascript", "application/json", "image/svg+xml")


class PageFile(NamedTuple):
    """`packed` is the gzip-compressed data, or None if compression saves nothing."""

    kind: str
    digest: str
    data: bytes
    packed: bytes | None


def response(name: str) -> Response:
    """Return a static file by its path in the folder. Raises werkzeug's NotFound."""
    file = find(name)
    if file is None:
        abort(404)
    packed = file.packed if request.accept_encodings.quality("gzip") else None
    answer = Response(packed or file.data, mimetype=file.kind)
    if packed:
        answer.headers["Content-Encoding"] = "gzip"
    answer.headers["Vary"] = "Accept-Encoding"
    answer.set_etag(file.digest)
    if request.args.get("v") == file.digest:
        answer.cache_control.max_age = FOREVER
        answer.cache_control.immutable = True
    else:
        answer.cache_control.no_cache = True
    answer.make_conditional(request.environ)
    return answer


def find(name: str) -> PageFile | None:
    """Return a static file, or None if it does not exist or is outside the folder."""
    path = safe_join(str(FOLDER), name)
    with suppress(OSError):  # the name is too long for a file
        if path is not None and Path(path).is_file():
            return _read(Path(path), Path(path).stat().st_mtime_ns)
    return None


@functools.lru_cache(maxsize=256)
def _read(path: Path, changed: int) -> PageFile:
    data = path.read_bytes()
    # Do not use this machine's MIME table for scripts: browsers only run modules sent as
    # JavaScript.
    media_type = KINDS.get(path.suffix) or mimetypes.guess_type(path.name)[0]
    kind = media_type or "application/octet-stream"
    packed = gzip.compress(data, 9, mtime=0) if kind.startswith(PACKED) else data
    digest = hashlib.sha256(data).hexdigest()[:16]
    return PageFile(kind, digest, data, packed if len(packed) < len(data) else None)
