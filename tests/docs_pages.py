"""The pages of the documentation, split into the parts that tests check.

A fenced block of `sh` or `python` is an example, and is run by `tests/integration/test_docs.py`. A
comment above it says otherwise: `<!-- not run: REASON -->`, or `<!-- gateway -->` for the command
that starts the gateway which the examples of the page talk to. A block with a title is a file of
that name, beside which the examples run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*?) -->\n)?```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n"
    r"(?P<text>.*?)^```$",
    re.M | re.S,
)


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    title: str
    mark: str
    text: str

    @property
    def id(self) -> str:
        return f"{name(self.page)}:{self.line}"

    @property
    def starts_gateway(self) -> bool:
        return self.mark == "gateway"

    @property
    def runs(self) -> bool:
        """Whether it is an example that talks to a running gateway."""
        return self.language in ("sh", "python") and not self.mark and not self.flags

    @property
    def flags(self) -> list[list[str]]:
        """The flags of each `slotproxy` that a shell block starts."""
        if self.language != "sh":
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        return [shlex.split(line)[1:] for line in lines if line.startswith("slotproxy ")]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield Block(
            page,
            line,
            match["language"],
            match["title"] or "",
            match["mark"] or "",
            match["text"],
        )


def has_test(named: str) -> bool:
    """Whether a test that a table names, as `tests/…/test_file.py::test_name`, is there."""
    path, _, function = named.partition("::")
    file = ROOT / path
    return file.is_file() and bool(
        re.search(rf"^(?:async )?def {function}\(", file.read_text("utf-8"), re.M)
    )


def write_files(page: Path, folder: Path) -> None:
    """Writes the files of a page into `folder`, readable only by their owner."""
    for block in blocks(page):
        if block.title:
            path = folder / block.title
            path.write_text(block.text, encoding="utf-8")
            path.chmod(0o600)
