"""Files of every kind that may be uploaded: valid, hostile, and randomly changed ones.

Pure, and the same on every run.
"""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import zipfile
import zlib
from functools import cache
from typing import NamedTuple

from tests import documents


class Sample(NamedTuple):
    name: str
    data: bytes


TEXT = "The zebra runs over the hill.\n\n你好，世界。 It is a fine day, and nobody minds.\n"


@cache
def valid() -> tuple[Sample, ...]:
    """Small files that can be read."""
    rows = [["name", "count"], ["zebra", "3"], ["你好", "4"]]
    return (
        Sample("a.pdf", documents.pdf("One zebra", "Two\nzebras", "你好")),
        Sample("a.docx", documents.docx("A zebra", "Another one")),
        Sample("a.pptx", documents.pptx("Zebras", "Hills")),
        Sample("a.xlsx", documents.xlsx({"S": rows, "T": rows})),
        Sample("a.epub", documents.epub("A zebra", "runs")),
        Sample(
            "a.html",
            f"<html><head><title>T</title></head><body><h1>Z</h1><p>{TEXT}</p>"
            "<table><tr><td>1</td></tr></table><script>x</script></body></html>".encode(),
        ),
        Sample("a.txt", TEXT.encode()),
        Sample("a.md", f"# Zebras\n\n{TEXT}\n## Hills\n\n- a\n- b\n".encode()),
        Sample("a.csv", b'name,count\nzebra,3\n"a, b",4\n'),
        Sample("a.json", json.dumps({"zebra": [1, 2, {"a": None}]}).encode()),
        Sample("a.py", b"def zebra():\n    return 1\n"),
        Sample("a.xml", b"<?xml version='1.0'?><a><b>zebra</b></a>"),
        Sample("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'><text>zebra</text></svg>"),
        Sample("gb.txt", "斑马在山上跑。".encode("gb18030")),
        Sample("utf16.txt", "斑马 zebra".encode("utf-16")),
        Sample("a.png", documents.png(200, 10, 10)),
        Sample("a.zip", archive({"a.txt": b"zebra"})),
    )


def archive(files: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", how) as made:
        for name, data in files.items():
            made.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), data, how)
    return packed.getvalue()


def _parts(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        return {one.filename: opened.read(one) for one in opened.infolist()}


def _with(sample: Sample, changed: dict[str, bytes]) -> Sample:
    return Sample(sample.name, archive({**_parts(sample.data), **changed}))


def _by_end(end: str) -> Sample:
    return next(one for one in valid() if one.name.endswith(end))


LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "zebra">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{("&" + chr(97 + n) + ";") * 10}">' for n in range(9))
    + "]><l>&j;</l>"
).encode()
OUTSIDE = (
    b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY x SYSTEM "file:///etc/passwd">'
    b'<!ENTITY y SYSTEM "http://127.0.0.1:9/">]><l>&x;&y;</l>'
)


@cache
def hostile() -> tuple[Sample, ...]:
    """Files that are made to harm their reader."""
    docx, xlsx, pptx, epub = map(_by_end, ("docx", "xlsx", "pptx", "epub"))
    word = "word/document.xml"
    zeros = bytes(60 << 20)
    found = [
        _with(docx, {word: LAUGHS}),
        _with(docx, {word: OUTSIDE}),
        _with(docx, {word: zeros}),
        _with(docx, {word: b"<a>" * 200_000}),
        _with(docx, {word: b""}),
        _with(docx, {"word/nested.zip": archive({"a": archive({"b": zeros})})}),
        _with(docx, {"../../../../tmp/evil": b"x", "/etc/evil": b"x", "C:\\evil": b"x"}),
        _with(docx, {"[Content_Types].xml": b"<Types/>"}),
        _with(docx, {f"x/{n}": b"" for n in range(12_000)}),
        _with(xlsx, {"xl/worksheets/sheet1.xml": _far_cell()}),
        _with(xlsx, {"xl/worksheets/sheet1.xml": LAUGHS}),
        _with(
            xlsx, {"xl/sharedStrings.xml": b"<sst><si><t>" + b"a" * (20 << 20) + b"</t></si></sst>"}
        ),
        _with(pptx, {"ppt/slides/slide1.xml": LAUGHS}),
        _with(pptx, {"ppt/presentation.xml": OUTSIDE}),
        _with(epub, {"book.opf": LAUGHS}),
        _with(epub, {"META-INF/container.xml": OUTSIDE}),
        _with(
            epub,
            {"book.opf": _parts(epub.data)["book.opf"].replace(b"c0.xhtml", b"../../etc/passwd")},
        ),
        Sample("bomb.docx", archive({"a": zeros})),
        Sample("nested.docx", _nested(40)),
        Sample("lies.docx", _lying(docx.data)),
        Sample("many.pdf", documents.pdf(*["zebra"] * 300)),
        Sample("count.pdf", documents.pdf("zebra").replace(b"/Count 1", b"/Count 999999999")),
        Sample("loop.pdf", documents.pdf("zebra").replace(b"/Kids [6 0 R]", b"/Kids [2 0 R]")),
        Sample("bomb.pdf", _pdf_bomb()),
        Sample("huge.pdf", documents.pdf("zebra").replace(b"[0 0 595 842]", b"[0 0 9e9 9e9]")),
        Sample("xref.pdf", documents.pdf("zebra").replace(b"startxref\n", b"startxref\n9")),
        Sample(
            "js.pdf",
            documents.pdf("zebra").replace(
                b"/Type /Catalog",
                b"/Type /Catalog /OpenAction << /S /JavaScript /JS (app.alert(1)) >>",
            ),
        ),
        Sample("deep.html", b"<div>" * 100_000 + b"zebra"),
        Sample("table.html", b"<table>" * 3000 + b"zebra"),
        Sample("attr.html", b"<p " + b"a=b " * 300_000 + b">zebra"),
        Sample(
            "file.html", b"<iframe src='file:///etc/passwd'></iframe><img src=http://127.0.0.1:9/>"
        ),
        Sample("entity.html", b"&" * 500_000 + b"&#x110000;&#xd800;&#0;"),
        Sample("line.txt", b"a" * 3_000_000),
        Sample("lines.txt", b"\n" * 1_000_000),
        Sample("spaces.txt", b" " * 2_000_000 + b"zebra"),
        Sample("dots.txt", b"." * 2_000_000),
        Sample("commas.csv", b"," * 1_000_000),
        Sample("wide.csv", b"zebra," * 100_000 + b"\n" + b"1," * 100_000),
        Sample("heads.md", b"# zebra\n" * 50_000),
        Sample("quotes.md", b">" * 100_000 + b" zebra"),
        Sample("lists.md", b"".join(b" " * n + b"- a\n" for n in range(1500))),
        Sample("deep.json", b"[" * 200_000),
        Sample("laughs.xml", LAUGHS),
        Sample("laughs.svg", LAUGHS),
        Sample("bom.txt", b"\xff\xfe" + b"\xd8" * 999),
        Sample("nul.txt", b"zebra\0" * 1000),
        Sample("late-nul.txt", b"zebra " * 1000 + b"\0" * 50),
        Sample("combining.txt", ("e" + "\u0301" * 100_000).encode()),
        Sample("rtl.txt", ("\u202e" * 10_000 + "zebra").encode()),
        Sample("empty.txt", b""),
        Sample("empty.pdf", b""),
        Sample("empty.docx", b""),
        Sample("head.pdf", b"%PDF-1.7\n"),
        Sample("old.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2000)),
        Sample("bomb.png", _png_bomb()),
        Sample("pk.xlsx", b"PK\x03\x04" + b"\xff" * 500),
        Sample("end.epub", b"PK\x05\x06" + bytes(18)),
        Sample("big.docx", b"PK" + bytes(range(256)) * 12_000),
    ]
    return tuple(found)


def _far_cell() -> bytes:
    space = b"http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    row = b'<row r="1048576"><c r="XFD1048576" t="inlineStr"><is><t>zebra</t></is></c></row>'
    head = b'<worksheet xmlns="' + space + b'"><dimension ref="A1:XFD1048576"/><sheetData>'
    return head + b'<row r="1"><c r="A1"><v>1</v></c></row>' + row + b"</sheetData></worksheet>"


def _nested(depth: int) -> bytes:
    data = b"zebra"
    for _ in range(depth):
        data = archive({"word/document.xml": data}, zipfile.ZIP_STORED)
    return data


def _lying(data: bytes) -> bytes:
    """Its directory says that each file has 4 GiB."""
    changed = bytearray(data)
    at = changed.find(b"PK\x01\x02")
    while at >= 0:
        changed[at + 24 : at + 28] = struct.pack("<I", 0xFFFFFFF0)
        at = changed.find(b"PK\x01\x02", at + 4)
    return bytes(changed)


def _pdf_bomb() -> bytes:
    packed = zlib.compress(b"BT /F 12 Tf (zebra) Tj ET\n" * 3_000_000, 9)
    old = documents.pdf("zebra")
    at, end = old.rfind(b"<< /Length"), old.rfind(b"endobj")
    stream = b"<< /Length %d /Filter /FlateDecode >>\nstream\n" % len(packed)
    return old[:at] + stream + packed + b"\nendstream\n" + old[end:]


def _png_bomb() -> bytes:
    good = documents.png(1, 2, 3)
    return good[:16] + struct.pack(">II", 2**31 - 1, 2**31 - 1) + good[24:]


# -- at random -------------------------------------------------------------------------------------

NAMES = [
    "../../../../etc/passwd.txt", "a/b.txt", "/abs.txt", "C:\\a.txt", "..\\..\\a.txt", "..", ".",
    ".txt", "a", "a.", "a.exe", "a.txt.", "a.txt ", " a.txt", "con.txt", "a\nb.txt", "a\0.txt",
    "a\r\nX-A: b.txt", "a" * 250 + ".txt", "a" * 5000 + ".txt", "é.txt", "你好.txt",
    "\u202etxt.exe", "\U0001f600.txt", "%2e%2e%2fa.txt", "a%00.txt", 'a".txt', "a'.txt",
    "a;b.txt", "<script>.txt", "{{7*7}}.txt", "$(id).txt", "`id`.txt", "a?b.txt", "a#b.txt",
    "a&b=c.txt", "~/a.txt", "-rf.txt", "\ufeff.txt", "a.TXT", "a.tar.gz", "\x7f.txt", "", "NUL",
    "\ud800.txt",
]  # fmt: skip


def made(rng: random.Random) -> Sample:
    """A valid, hostile or broken file, under its own name or another."""
    how = rng.random()
    sample = rng.choice(hostile()) if how < 0.15 else rng.choice(valid())
    name, data = sample
    if how > 0.35:
        data = changed(rng, data)
    if rng.random() < 0.15:
        name = rng.choice([*valid(), *hostile()]).name
    if rng.random() < 0.12:
        name = rng.choice(NAMES)
    return Sample(name, data)


METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
ODD = [b"\0" * 8, b"\xff" * 8, b"PK\x01\x02", b"<!DOCTYPE a>", b"999999999", b"-1", b"endobj"]
ODD += [b"\xed\xa0\x80"]


def changed(rng: random.Random, data: bytes) -> bytes:
    """The data with a few bytes, or a few members of an archive, changed."""
    if data[:4] == b"PK\x03\x04" and rng.random() < 0.4:
        try:
            parts = _parts(data)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError):
            parts = {}
        if parts and len(parts) < 100:
            name = rng.choice(list(parts))
            how = rng.randrange(5)
            if how == 0:
                del parts[name]
            elif how == 1:
                parts[rng.choice(list(parts))] = parts[name]
            elif how == 2:
                parts[name] = rng.choice([LAUGHS, OUTSIDE, b"", b"<a/>", bytes(5000)])
            else:
                parts[name] = _bytes(rng, parts[name])
            if sum(map(len, parts.values())) < 10 << 20:
                return archive(parts, rng.choice(METHODS))
    return _bytes(rng, data)


def _bytes(rng: random.Random, data: bytes) -> bytes:
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = rng.randrange(len(data) + 1)
        how = rng.randrange(6)
        if how == 0:
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        elif how == 1:
            data = data[:at]
        elif how == 2:
            data = data[:at] + data[at + rng.choice([1, 4, 100]) :]
        elif how == 3 and len(data) < 1 << 20:
            data = data[:at] + data[max(0, at - rng.choice([4, 100, 2000])) :]
        elif how == 4:
            data = data[:at] + rng.choice(ODD) + data[at:]
        else:
            noise = bytes(rng.randrange(256) for _ in range(rng.choice([1, 4, 32])))
            data = data[:at] + noise + data[at:]
    return data


def data_url(sample: Sample, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(sample.data).decode()}"
