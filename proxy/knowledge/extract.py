"""The child process that reads one document: ``python -m proxy.knowledge.extract``

Documents may be broken, endless, or made to attack a parser. So each is read in a process of its
own, with limits on memory, time and (`proxy.runtime.confinement`, on Linux) on what it may do. On
other systems only the audit hook below restricts it, which native code bypasses.

    In:  a line of JSON {"kind", "end", "size", "memory", "seconds", "chunk", "overlap"}, then
         `size` bytes.
    Out: lines of JSON: {"place", "text", "done"} for each piece, then {"over": true} or {"error"}.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from ..runtime.confinement import confine, limit
from ..runtime.subprocesses import end_with_input
from ..store.records import Splitting
from .splitting import Section, of_markdown, of_plain, pieces

ENCODINGS = ("utf-8-sig", "gb18030", "latin-1")
UNPACKED = 512 << 20  # bytes of an unpacked archive
RATIO = 200  # unpacked size in multiples of the packed size
MEMBERS = 10_000
AT_ONCE = 100  # pages; the parser caches pages until the file is opened again
COPIED = 256 << 10  # bytes
FORBIDDEN = frozenset(
    "socket.connect socket.bind socket.sendto subprocess.Popen os.system os.exec os.posix_spawn "
    "os.fork os.forkpty os.remove os.rename os.rmdir".split()
)
MAGIC = {"pdf": b"%PDF", "docx": b"PK", "pptx": b"PK", "xlsx": b"PK", "epub": b"PK"}


class ReadingFailed(Exception):
    """The reason why a document could not be read, written for the user who uploaded it."""


def read(kind: str, end: str, file: BinaryIO) -> Iterator[tuple[float, Section]]:
    """Yield the sections, each with the share of the document read so far. Raises ReadingFailed."""
    head = file.read(1024)
    file.seek(0)
    magic = MAGIC.get(end)
    if magic is not None and magic not in head:
        raise ReadingFailed(f"this is not a valid {end} file")
    if kind == "pdf":
        yield from _pdf(file)
        return
    if kind == "converted":
        sections = list(of_markdown(_converted(end, file, packed=head[:2] == b"PK")))
    else:
        text = decoded(file.read())
        sections = list(of_markdown(text) if kind == "markdown" else of_plain(text))
    for number, section in enumerate(sections, start=1):
        yield number / len(sections), section


def decoded(data: bytes) -> str:
    """The text of a file of text. Raises ReadingFailed."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    if b"\0" in data[:4096]:
        raise ReadingFailed("this is not a text file")
    for encoding in ENCODINGS:
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode(encoding)
    raise ReadingFailed("this is not a text file")


def _pdf(file: BinaryIO) -> Iterator[tuple[float, Section]]:
    """Read page by page, so that memory does not grow with the number of pages."""
    import pypdfium2

    has_text = False
    first, count = 0, 1
    while first < count:
        file.seek(0)
        try:
            document = pypdfium2.PdfDocument(file)
        except pypdfium2.PdfiumError as error:
            locked = "password" in str(error).lower()
            raise ReadingFailed(
                "it is password-protected" if locked else "the file is damaged"
            ) from None
        count = len(document)
        for number in range(first, min(first + AT_ONCE, count)):
            page = document[number]
            words = page.get_textpage()
            text = words.get_text_bounded().replace("\r\n", "\n").replace("\ufffe", "")
            words.close()
            page.close()
            has_text = has_text or bool(text.strip())
            yield (number + 1) / count, Section(f"page {number + 1}", text)
        document.close()
        first += AT_ONCE
    if not has_text:
        raise ReadingFailed("its pages contain only images, no text")


def _converted(end: str, file: BinaryIO, *, packed: bool) -> str:
    if packed:
        _weigh(file)
    from markitdown import MarkItDown, StreamInfo

    try:
        converter = MarkItDown(enable_plugins=False)
        made = converter.convert_stream(file, stream_info=StreamInfo(extension=f".{end}"))
    except MemoryError:
        raise
    except Exception as error:
        raise ReadingFailed(f"the file is damaged ({type(error).__name__})") from None
    return made.markdown


def _weigh(file: BinaryIO) -> None:
    """Raises ReadingFailed if the archive would be too large when unpacked."""
    packed = file.seek(0, os.SEEK_END)
    try:
        members = zipfile.ZipFile(file).infolist()
    except zipfile.BadZipFile:
        raise ReadingFailed("the file is damaged (not an archive)") from None
    file.seek(0)
    size = sum(member.file_size for member in members)
    if len(members) > MEMBERS or size > UNPACKED or size > RATIO * max(packed, 1 << 16):
        raise ReadingFailed("it expands to far more than its compressed size")


def _forbid(event: str, args: tuple[Any, ...]) -> None:
    """An audit hook (PEP 578) that forbids the usual ways to do what no document needs."""
    if event in FORBIDDEN or (event == "open" and _writes(*args[1:3])):
        raise PermissionError(event)


def _writes(mode: str | None, flags: int) -> bool:
    """Whether an `open` event opens a file for writing; os.open passes no mode."""
    if mode is not None:
        return not set(mode).isdisjoint("wax+")
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _kept(text: str) -> str:
    """Remove what databases do not accept: NUL and lone surrogates."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _held(source: BinaryIO, size: int) -> BinaryIO:
    """Copy the next `size` bytes to an unnamed file, which disappears with the process."""
    file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  # open to the end
    while size > 0 and (data := source.read(min(size, COPIED))):
        size -= file.write(data)
    file.seek(0)
    return file


def main(source: BinaryIO = sys.stdin.buffer) -> None:
    job: dict[str, Any] = json.loads(source.readline())
    file = _held(source, job["size"])
    confine(network=False)  # before starting a second thread: confinement is per thread
    end_with_input(source)
    # Output of libraries goes to the log, so that only answers go to the pipe.
    out, sys.stdout = sys.stdout, sys.stderr

    def say(**fields: Any) -> None:
        out.write(json.dumps(fields) + "\n")
        out.flush()

    limit(job["memory"], job["seconds"])
    sys.addaudithook(_forbid)
    share = 0.0

    def sections() -> Iterator[Section]:
        nonlocal share
        for done, section in read(job["kind"], job["end"], file):
            share = done
            yield Section(_kept(section.place), _kept(section.text))

    try:
        for piece in pieces(sections(), Splitting(job["chunk"], job["overlap"])):
            say(place=piece.place, text=piece.text, done=share)
    except ReadingFailed as error:
        say(error=str(error))
    except MemoryError:
        say(error="reading it needs too much memory")
    else:
        say(over=True)
    out.close()
    os._exit(0)  # the thread that waits for the parent is still running


if __name__ == "__main__":
    main()
