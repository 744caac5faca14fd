"""The child that reads one document: bytes in, pieces out. ``python -m proxy.knowledge.extract``

The bytes go to a file that has no name, and are read from there: what is read page by page is never
whole in memory.

It is a process of its own, since what it reads is anybody's: it may be broken, endless, or made to
harm a parser. It has limits on memory and processor time. Its parent ends it when it takes too
long, and it ends with its parent, whose end is that of its standard input.

On Linux it is confined (`proxy.confinement`), whatever a parser is made to do: it writes no file,
reads none but Python's own, starts no program, connects nowhere by TCP and sees no other process.
Elsewhere only the audit hook below stands in the way of a parser's Python code. The hook is no
sandbox: it knows the usual ways to the network, to programs and to written files, not all, and it
does not see native code.

In:  a line of JSON {"kind", "end", "size", "memory", "seconds", "chunk", "overlap"}, then `size`
     bytes.
Out: lines of JSON: {"place", "text", "done"} for each piece, then {"over": true} or {"error"}.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from ..confinement import confine, limit
from .sections import of_markdown, of_plain
from .splitting import Section, pieces
from .values import Splitting

ENCODINGS = ("utf-8-sig", "gb18030", "latin-1")
UNPACKED = 512 << 20  # bytes an archive may have when it is unpacked
RATIO = 200  # times as large as it is packed
MEMBERS = 10_000
AT_ONCE = 100  # pages: the parser keeps what it has seen, until the file is opened anew
COPIED = 256 << 10  # bytes
FORBIDDEN = frozenset(
    "socket.connect socket.bind socket.sendto subprocess.Popen os.system os.exec os.posix_spawn "
    "os.fork os.forkpty os.remove os.rename os.rmdir".split()
)
MAGIC = {"pdf": b"%PDF", "docx": b"PK", "pptx": b"PK", "xlsx": b"PK", "epub": b"PK"}


class Unreadable(Exception):
    """Why a document cannot be read, in words for who uploaded it."""


def read(kind: str, end: str, file: BinaryIO) -> Iterator[tuple[float, Section]]:
    """Sections, each with the share of the document that is read by then. Raises Unreadable."""
    head = file.read(1024)
    file.seek(0)
    magic = MAGIC.get(end)
    if magic is not None and magic not in head:
        raise Unreadable(f"this is no {end} file")
    if kind == "pdf":
        yield from _pdf(file)
        return
    if kind == "converted":
        sections = list(of_markdown(_converted(end, file, packed=head[:2] == b"PK")))
    else:
        text = _text(file.read())
        sections = list(of_markdown(text) if kind == "markdown" else of_plain(text))
    for number, section in enumerate(sections, start=1):
        yield number / len(sections), section


def _text(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    if b"\0" in data[:4096]:
        raise Unreadable("this is no text")
    for encoding in ENCODINGS:
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode(encoding)
    raise Unreadable("this is no text")


def _pdf(file: BinaryIO) -> Iterator[tuple[float, Section]]:
    """Page by page: a thousand need no more memory than a hundred."""
    import pypdfium2

    found = False
    first, count = 0, 1
    while first < count:
        file.seek(0)
        try:
            document = pypdfium2.PdfDocument(file)
        except pypdfium2.PdfiumError as error:
            locked = "password" in str(error).lower()
            raise Unreadable("it has a password" if locked else "it is broken") from None
        count = len(document)
        for number in range(first, min(first + AT_ONCE, count)):
            page = document[number]
            words = page.get_textpage()
            text = words.get_text_bounded().replace("\r\n", "\n").replace("\ufffe", "")
            words.close()
            page.close()
            found = found or bool(text.strip())
            yield (number + 1) / count, Section(f"page {number + 1}", text)
        document.close()
        first += AT_ONCE
    if not found:
        raise Unreadable("its pages have no text: they are pictures")


def _converted(end: str, file: BinaryIO, *, packed: bool) -> str:
    """As Markdown."""
    if packed:
        _weigh(file)
    from markitdown import MarkItDown, StreamInfo

    try:
        converter = MarkItDown(enable_plugins=False)
        made = converter.convert_stream(file, stream_info=StreamInfo(extension=f".{end}"))
    except MemoryError:
        raise
    except Exception as error:
        raise Unreadable(f"it is broken ({type(error).__name__})") from None
    return made.markdown


def _weigh(file: BinaryIO) -> None:
    """Raises Unreadable for an archive that would be too large unpacked."""
    packed = file.seek(0, os.SEEK_END)
    try:
        members = zipfile.ZipFile(file).infolist()
    except zipfile.BadZipFile:
        raise Unreadable("it is broken (no archive)") from None
    file.seek(0)
    size = sum(one.file_size for one in members)
    if len(members) > MEMBERS or size > UNPACKED or size > RATIO * max(packed, 1 << 16):
        raise Unreadable("it is far larger unpacked than packed")


def _forbid(event: str, args: tuple[Any, ...]) -> None:
    """An audit hook (PEP 578): the usual ways to what no document is a reason for. A second line
    behind `confine`, and the only one where that does nothing; native code passes it by."""
    if event in FORBIDDEN or (event == "open" and _writes(*args[1:3])):
        raise PermissionError(event)


def _writes(mode: str | None, flags: int) -> bool:
    """Of an event `open`; os.open gives no mode."""
    if mode is not None:
        return not set(mode).isdisjoint("wax+")
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _end_with_parent(source: BinaryIO) -> None:
    os.read(source.fileno(), 1)
    os._exit(1)


def _kept(text: str) -> str:
    """Without what no database takes: NUL, and halves of characters."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _held(source: BinaryIO, size: int) -> BinaryIO:
    """The next `size` bytes, in a file without a name: it is gone when we are."""
    file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  # open to the end
    while size > 0 and (data := source.read(min(size, COPIED))):
        size -= file.write(data)
    file.seek(0)
    return file


def main(source: BinaryIO = sys.stdin.buffer) -> None:
    asked: dict[str, Any] = json.loads(source.readline())
    file = _held(source, asked["size"])
    confine(network=False)  # before there is a second thread: each has its own
    threading.Thread(target=_end_with_parent, args=(source,), daemon=True).start()
    # Whatever a library prints goes to the log; the answer alone to the pipe.
    out, sys.stdout = sys.stdout, sys.stderr

    def say(**fields: Any) -> None:
        out.write(json.dumps(fields) + "\n")
        out.flush()

    limit(asked["memory"], asked["seconds"])
    sys.addaudithook(_forbid)
    share = 0.0

    def sections() -> Iterator[Section]:
        nonlocal share
        for done, section in read(asked["kind"], asked["end"], file):
            share = done
            yield Section(_kept(section.place), _kept(section.text))

    try:
        for piece in pieces(sections(), Splitting(asked["chunk"], asked["overlap"])):
            say(place=piece.place, text=piece.text, done=share)
    except Unreadable as error:
        say(error=str(error))
    except MemoryError:
        say(error="it needs too much memory")
    else:
        say(over=True)
    out.close()
    os._exit(0)  # a thread waits for the parent


if __name__ == "__main__":
    main()
