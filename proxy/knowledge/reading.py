"""Reads and splits a document in a child process (`extract`), and yields pieces as they come."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from importlib.util import find_spec

from msgspec import Struct

from ..runtime.subprocesses import Helper
from ..store.records import Splitting
from .extract import ReadingFailed as ReadingFailed
from .extract import decoded
from .splitting import Section

LONGEST = 4 << 20  # bytes of one piece as JSON
# Of a document that is read whole: characters of a piece (a page has fewer), and of all.
WHOLE_PIECE = 256 << 10
LONGEST_WHOLE = 4 << 20
NEEDED = {"pdf": "pypdfium2", "converted": "markitdown"}  # packages of the extra `knowledge`
# Kinds of files by the ends of their names. Their content is checked when they are read.
_PLAIN = frozenset(
    "txt text log srt vtt rst tex csv tsv json jsonl ndjson yaml yml toml ini cfg conf env "
    "py pyi ipynb js mjs ts jsx tsx java kt kts scala c h cc cpp hpp cxx cs go rs rb php pl lua r "
    "swift m mm sh bash zsh fish ps1 bat sql graphql proto css scss less vue svelte xml svg "
    "cmake make mk dockerfile gradle diff patch asm s f90 jl dart ex exs erl hs ml clj el".split()
)
KINDS = {
    "plain": _PLAIN,
    "markdown": frozenset(("md", "markdown", "mdx")),
    "pdf": frozenset(("pdf",)),
    "converted": frozenset(("html", "htm", "xhtml", "docx", "pptx", "xlsx", "xls", "epub")),
}


def kind(filename: str) -> str:
    """Return "plain", "markdown", "pdf", "converted", or "" for unsupported files."""
    end = filename.rpartition(".")[2].lower()
    return next((name for name, ends in KINDS.items() if end in ends), "")


class ReadingLimits(Struct, frozen=True):
    """Limits for one document: seconds of processor time, and until the next piece; bytes."""

    seconds: int = 300
    memory: int = 1 << 30


class DocumentReader:
    """A document being read: an iterator of (share done, piece). Any thread may call `end`."""

    def __init__(
        self,
        filename: str,
        size: int,
        data: Iterable[bytes],
        splitting: Splitting,
        limits: ReadingLimits,
    ) -> None:
        self._seconds = limits.seconds
        self._longest = splitting.size
        # Since when we wait for the child; None while it waits for us.
        self._since: float | None = time.monotonic()
        self._late = False
        self._child = Helper("proxy.knowledge.extract")
        job = {
            "kind": kind(filename),
            "end": filename.rpartition(".")[2].lower(),
            "size": size,
            "memory": limits.memory,
            "seconds": limits.seconds,
            "chunk": splitting.size,
            "overlap": splitting.overlap,
        }
        # The child reads all its input before it writes, so this cannot deadlock. The pipe stays
        # open: when it closes, the child knows that the parent has died.
        with contextlib.suppress(BrokenPipeError):
            self._child.input.write(json.dumps(job).encode() + b"\n")
            for piece in data:
                size -= len(piece)
                self._child.input.write(piece)
            self._child.input.flush()
        if size > 0 and self._child.alive:
            self.end()  # deleted in the meantime; the child would wait for the rest of its input

    def __iter__(self) -> Iterator[tuple[float, Section]]:
        """Raises ReadingFailed."""
        while line := self._child.output.readline(LONGEST):
            self._since = None
            try:
                message = json.loads(line)
            except ValueError:
                self.end()  # cut off because the child ended; otherwise, not from our reader
                break
            if "error" in message:
                raise ReadingFailed(message["error"])
            if message.get("over"):
                return
            if len(message["text"]) > self._longest:
                self.end()
                break
            yield message["done"], Section(message["place"], message["text"])
            self._since = time.monotonic()
        late = self._late or self._child.wait() == -signal.SIGXCPU
        raise ReadingFailed(
            "reading it takes too long" if late else "its content crashed the reader"
        )

    def hurry(self) -> None:
        since = self._since
        if since is not None and time.monotonic() - since > self._seconds:
            self._late = True
            self.end()

    def end(self) -> None:
        self._child.kill()

    def close(self) -> None:
        self._child.close()


def whole_text(name: str, data: bytes, limits: ReadingLimits) -> str:
    """The text of a document that is stored nowhere, with page numbers. Raises ReadingFailed."""
    form = kind(name)
    if not form:
        raise ReadingFailed("its format is not supported")
    if form in ("plain", "markdown"):
        return _bounded(decoded(data))
    if find_spec(NEEDED[form]) is None:
        raise ReadingFailed("the gateway reads such files with the extra 'knowledge' installed")
    reader = DocumentReader(name, len(data), (data,), Splitting(WHOLE_PIECE, 0), limits)
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
            if length > LONGEST_WHOLE:
                break
    except ReadingFailed:
        if late.is_alive():
            raise
        raise ReadingFailed("reading it takes too long") from None  # the timer ended it
    finally:
        late.cancel()
        reader.close()
    return _bounded("\n".join(parts))


def _bounded(text: str) -> str:
    if len(text) > LONGEST_WHOLE:
        raise ReadingFailed(f"it has more than {LONGEST_WHOLE} characters")
    return text
