"""Reads the documents within a request: their texts take their places (`apis.contents`).

Texts and failures are kept for a while, since each turn has all documents again. A few are read at
a time, each in a process of its own; a key has a fair share of these places.
"""

from __future__ import annotations

import binascii
import time
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from ..apis.contents import Attachment
from ..core.cache import BoundedCache, digest
from ..errors import NotFound, QueueFull
from ..knowledge.reading import ReadingFailed, ReadingLimits, whole_text
from ..runtime.blocking import run_in_native_thread
from .ongoing import FairCap

AT_ONCE = 4
SECONDS = 30  # for a document
PATIENCE = 60.0  # seconds of a request, after which it begins to read no more documents
MOST = 32  # documents of a request that are not known yet
CACHED = 64 << 20  # bytes of texts
LARGE = 256 << 10  # characters of base64 that are decoded in a native thread
LOOK = 0.05  # seconds between two looks for a free place

Uploaded = Callable[[str], tuple[str, Callable[[], bytes]]]
"""The name of an uploaded file by its id, and a function that returns its bytes. Raises
NotFound."""
Result = tuple[bool, str]
"""Whether it was read, and the text, or the reason why not."""


class AttachedDocuments:
    """`reading_timeout` and `reading_memory` of the settings bound each document."""

    def __init__(self, seconds: int, memory: int, *, alone: bool = False) -> None:
        self._limits = ReadingLimits(min(seconds, SECONDS), memory)
        self._places = FairCap(AT_ONCE, alone=alone)
        self._known: BoundedCache[Result] = BoundedCache(CACHED)

    def read(
        self,
        documents: Sequence[Attachment],
        owner: str,
        uploaded: Uploaded,
        before: Callable[[], None],
    ) -> list[str]:
        """Replace the documents by their texts. Returns a warning for each that could not be read.
        `before` is called before the first is. Raises QueueFull if no place becomes free."""
        warnings = []
        until, new = time.monotonic() + PATIENCE, 0
        for document in documents:
            try:
                document, key, data = _located(document, owner, uploaded)
                outcome = self._known.get(key)
                if outcome is None:
                    new += 1
                    if new > MOST or time.monotonic() > until:
                        raise ReadingFailed("the request has too many new documents")
                    if new == 1:
                        before()
                    outcome = self._read(document.name, data, owner, until)
                    self._known.put(key, outcome, len(outcome[1].encode()) + len(key))
                was_read, text = outcome
            except ReadingFailed as error:
                was_read, text = False, str(error)
            if not was_read:
                name = document.name.encode("ascii", "replace").decode()  # for a header
                warnings.append(f"the document {name} was left out: {text}")
                text = f"[This document was left out: {text}.]"
            document.replace(text)
        return warnings

    def _read(self, name: str, data: Callable[[], bytes], owner: str, until: float) -> Result:
        while not self._places.take(owner):
            if time.monotonic() > until:
                raise QueueFull(
                    "the gateway is reading too many documents: send this one again later",
                    retry_after=10.0,
                )
            time.sleep(LOOK)
        try:
            return True, whole_text(name, data(), self._limits)
        except ReadingFailed as error:
            return False, str(error)
        finally:
            self._places.give(owner)


def _located(
    document: Attachment, owner: str, uploaded: Uploaded
) -> tuple[Attachment, bytes, Callable[[], bytes]]:
    """A document with its name, a key for its content, and its reader. Raises ReadingFailed."""
    if document.data:
        encoded = f"{document.name}\n{document.data}".encode("utf-8", "replace")
        key = _native(lambda: digest(encoded), len(encoded))
        return document, key, lambda: _native(lambda: _decoded(document.data), len(encoded))
    if document.file_id:
        try:
            name, content = uploaded(document.file_id)
        except NotFound as error:
            raise ReadingFailed(error.message) from None
        key = digest(f"{owner}\n{document.file_id}".encode("utf-8", "replace"))
        return replace(document, name=name), key, content
    if document.url:
        raise ReadingFailed("the gateway does not fetch it: send its content as base64")
    raise ReadingFailed("it has no content")


def _native(work: Callable[[], bytes], size: int) -> bytes:
    return work() if size < LARGE else run_in_native_thread(work)


def _decoded(data: str) -> bytes:
    try:
        return binascii.a2b_base64(data)
    except (binascii.Error, ValueError):
        raise ReadingFailed("its content is not base64") from None
