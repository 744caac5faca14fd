"""Documents made for tests: small files of the kinds that people upload."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

LINE = 40  # characters


def pdf(*pages: str) -> bytes:
    """A PDF with these texts, a page each; any character of the Basic Multilingual Plane.

    Characters are written as two-byte codes of their own, and a ToUnicode map says which they are:
    what a program reads out of it does not depend on fonts it has."""
    chars = sorted({char for page in pages for char in page if char != "\n"})
    mapped = "\n".join(f"<{ord(char):04X}> <{ord(char):04X}>" for char in chars)
    to_unicode = (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /Own def "
        "/CMapType 2 def 1 begincodespacerange <0000> <FFFF> endcodespacerange\n"
        f"{len(chars)} beginbfchar\n{mapped}\nendbfchar\nendcmap end end"
    )
    kids = " ".join(f"{6 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type0 /BaseFont /Own /Encoding /Identity-H "
        b"/DescendantFonts [4 0 R] /ToUnicode 5 0 R >>",
        b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Own /DW 1000 "
        b"/CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> "
        b"/FontDescriptor << /Type /FontDescriptor /FontName /Own /Flags 4 "
        b"/FontBBox [0 -200 1000 800] /ItalicAngle 0 /Ascent 800 /Descent -200 /CapHeight 700 "
        b"/StemV 80 >> >>",
        _stream(to_unicode.encode()),
    ]
    for i, page in enumerate(pages):
        objects += [
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] "
            b"/Resources << /Font << /F 3 0 R >> >> /Contents %d 0 R >>" % (7 + 2 * i),
            _stream(_drawn(page).encode()),
        ]
    return _file(objects)


def _drawn(page: str) -> str:
    lines = [line for part in page.split("\n") for line in textwrap.wrap(part, LINE) or [""]]
    shown = " T* ".join(f"<{''.join(f'{ord(char):04X}' for char in line)}> Tj" for line in lines)
    return f"BT /F 12 Tf 16 TL 40 780 Td {shown} ET"


def _stream(data: bytes) -> bytes:
    return b"<< /Length %d >>\nstream\n%b\nendstream" % (len(data), data)


def _file(objects: Sequence[bytes]) -> bytes:
    out = b"%PDF-1.4\n"
    places = []
    for number, one in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, one)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    return (
        out
        + b"xref\n0 %d\n0000000000 65535 f \n%b" % (size, table)
        + b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (size, len(out))
    )
