"""The files pages are made of: compressed once, and kept by browsers for as long as they are the
same.

A page names a file with a digest of it (`?v=`), so that it may be kept for good; what a module
imports has no digest and is asked for again, which costs a 304.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import mimetypes
from pathlib import Path
from typing import NamedTuple

from flask import Response, abort, request
from werkzeug.security import safe_join

FOLDER = Path(__file__).resolve().parents[1] / "static"
FOREVER = 365 * 24 * 3600
PACKED = ("text/", "application/javascript", "application/json", "image/svg+xml")


class File(NamedTuple):
    """`packed` is gzip's, None where that saves nothing."""

    kind: str
    digest: str
    data: bytes
    packed: bytes | None


def response(name: str) -> Response:
    """A file of ours by its path in the folder. Raises werkzeug's NotFound."""
    found = find(name)
    if found is None:
        abort(404)
    packed = found.packed if request.accept_encodings.quality("gzip") else None
    answer = Response(packed or found.data, mimetype=found.kind)
    if packed:
        answer.headers["Content-Encoding"] = "gzip"
    answer.headers["Vary"] = "Accept-Encoding"
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.set_etag(found.digest)
    if request.args.get("v") == found.digest:
        answer.cache_control.max_age = FOREVER
        answer.cache_control.immutable = True
    else:
        answer.cache_control.no_cache = True
    answer.make_conditional(request.environ)
    return answer


def find(name: str) -> File | None:
    """None for one that is not there; nothing outside the folder is."""
    path = safe_join(str(FOLDER), name)
    try:
        if path is None or not Path(path).is_file():
            return None
    except OSError:  # a name that is too long for any file
        return None
    return _read(Path(path), Path(path).stat().st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _read(path: Path, changed: int) -> File:
    data = path.read_bytes()
    # Not what this machine's tables say of it: a module must be JavaScript to be run.
    kind = "text/javascript" if path.suffix in (".js", ".mjs") else None
    kind = kind or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    packed = gzip.compress(data, 9, mtime=0) if kind.startswith(PACKED) else data
    digest = hashlib.sha256(data).hexdigest()[:16]
    return File(kind, digest, data, packed if len(packed) < len(data) else None)
