"""How the child process reads documents."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from collections.abc import Callable

import pytest

from proxy.knowledge.extract import AT_ONCE, ReadingFailed, read
from proxy.knowledge.reading import kind
from tests.documents import docx, epub, pdf, pptx, xlsx
from tests.extras import need

need("knowledge", "pypdfium2", "markitdown")

SAID = "The zebra runs."
PLACED = [
    ("a.txt", lambda: b"The zebra runs.\n", "line 1"),
    ("a.txt", lambda: SAID.encode("utf-16"), "line 1"),
    ("a.md", lambda: b"# Animals\n\n## Striped\n\nThe zebra runs.\n", "Animals > Striped"),
    ("a.html", lambda: b"<html><h1>Animals</h1><p>The zebra runs.</p></html>", "Animals"),
    ("a.pdf", lambda: pdf("First page.", SAID), "page 2"),
    ("a.docx", lambda: docx("First.", SAID), ""),
    ("a.pptx", lambda: pptx("First slide.", SAID), "slide 2"),
    ("a.xlsx", lambda: xlsx({"Empty": [["x"]], "Animals": [["name"], [SAID]]}), "Animals"),
    ("a.csv", lambda: b"name,does\nzebra,The zebra runs.\n", "lines 1-2"),
    ("a.json", lambda: b'{"zebra": "The zebra runs."}', "line 1"),
    ("a.epub", lambda: epub("First.", SAID), ""),
    ("a.py", lambda: b"def zebra():\n    'The zebra runs.'\n", "lines 1-2"),
]


def place_of(name: str, data: bytes, said: str) -> str:
    """The position of the text `said`."""
    sections = read(kind(name), name.rpartition(".")[2], io.BytesIO(data))
    (place,) = (section.place for _, section in sections if said in section.text)
    return place


@pytest.mark.parametrize(("name", "made", "place"), PLACED, ids=[f"{x}-{p}" for x, _, p in PLACED])
def test_every_file_type_is_read_with_its_positions(
    name: str, made: Callable[[], bytes], place: str
) -> None:
    assert place_of(name, made(), SAID) == place


def test_chinese_is_read_in_every_encoding() -> None:
    for encoding in ("utf-8", "utf-8-sig", "gb18030", "utf-16"):
        assert place_of("a.txt", "斑马在跑。".encode(encoding), "斑马在跑。") == "line 1"
    assert place_of("a.pdf", pdf("斑马在跑。"), "斑马在跑。") == "page 1"
    assert place_of("a.docx", docx("斑马在跑。"), "斑马在跑。") == ""


def test_pages_of_a_long_pdf_are_read_once_and_in_order() -> None:
    data = pdf(*[f"This is {number}." for number in range(AT_ONCE * 2 + 5)])
    pages = list(read("pdf", "pdf", io.BytesIO(data)))
    assert [section.text for _, section in pages] == [f"This is {n}." for n in range(len(pages))]
    assert len(pages) == AT_ONCE * 2 + 5 and pages[-1][0] == 1.0


def bomb() -> bytes:
    """64 MB of zeros in 64 kB."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b" " * (64 << 20))
    return packed.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("a.pdf", b"no pdf at all", "this is not a valid pdf file"),
        ("b.pdf", b"%PDF-1.4 but broken", "the file is damaged"),
        ("c.docx", b"PK but broken", "the file is damaged (not an archive)"),
        ("d.docx", bomb(), "it expands to far more than its compressed size"),
        ("e.txt", b"\0\1\2\3", "this is not a text file"),
        ("g.pdf", pdf(" "), "its pages contain only images, no text"),
    ],
)
def test_unreadable_document_has_a_reason(name: str, data: bytes, why: str) -> None:
    with pytest.raises(ReadingFailed) as failed:
        list(read(kind(name), name.rpartition(".")[2], io.BytesIO(data)))
    assert str(failed.value) == why


def test_parser_is_confined() -> None:
    """In a child process, since an audit hook cannot be removed."""
    program = """
import sys
from proxy.knowledge.extract import _forbid
import os, socket, subprocess
sys.addaudithook(_forbid)
def tries():
    yield lambda: socket.create_connection(("127.0.0.1", 9), 1)
    yield lambda: subprocess.run(["true"])
    yield lambda: os.system("true")
    yield lambda: open(sys.argv[1], "w")
for attempt in tries():
    try:
        attempt()
    except PermissionError:
        continue
    sys.exit("it was let")
open(sys.executable, "rb").close()
"""
    subprocess.run([sys.executable, "-c", program, "/dev/null"], check=True, timeout=30)
