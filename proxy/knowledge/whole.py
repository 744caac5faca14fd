"""The whole text of a document that comes with a request, and is stored nowhere."""

from __future__ import annotations

import threading
from importlib.util import find_spec

from ..store.records import Splitting
from .extract import Unreadable, decoded
from .reading import DocumentReader, ReadingFailed, ReadingLimits, kind

NEEDED = {"pdf": "pypdfium2", "converted": "markitdown"}  # packages of the extra `knowledge`
PIECE = 256 << 10  # characters of a piece; a page has fewer
LONGEST = 4 << 20  # characters of all


def whole_text(name: str, data: bytes, limits: ReadingLimits) -> str:
    """The text of the file of this name, with the numbers of pages. Raises ReadingFailed, also
    after the seconds of `limits`."""
    form = kind(name)
    if not form:
        raise ReadingFailed("its format is not supported")
    if form in ("plain", "markdown"):
        return _bounded(_decoded(data))
    if find_spec(NEEDED[form]) is None:
        raise ReadingFailed("the gateway reads such files with the extra 'knowledge' installed")
    reader = DocumentReader(name, len(data), (data,), Splitting(PIECE, 0), limits)
    late = threading.Timer(limits.seconds, reader.end)
    late.start()
    parts: list[str] = []
    length, last = 0, ""
    try:
        for _, piece in reader:
            if form == "pdf" and piece.place != last:
                parts.append(f"[{piece.place}]")
            last = piece.place
            parts.append(piece.text)
            length += len(piece.text)
            if length > LONGEST:
                break
    except ReadingFailed:
        if late.is_alive():
            raise
        raise ReadingFailed("reading it takes too long") from None  # the timer ended it
    finally:
        late.cancel()
        reader.close()
    return _bounded("\n".join(parts))


def _decoded(data: bytes) -> str:
    try:
        return decoded(data)
    except Unreadable as error:
        raise ReadingFailed(str(error)) from None


def _bounded(text: str) -> str:
    if len(text) > LONGEST:
        raise ReadingFailed(f"it has more than {LONGEST} characters")
    return text
