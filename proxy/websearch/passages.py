"""The parts of a page that fit a question. Pure.

A page becomes lines of text, those are put together to passages, and passages are ranked by how
many of the question's words they have. Words of Chinese and Japanese are pairs of characters, since
nothing stands between words there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from html.parser import HTMLParser

SIZE = 600  # characters of a passage
MOST_TEXT = 200_000  # characters of a page that are looked at

_SILENT = frozenset({"script", "style", "noscript", "template", "svg", "head", "nav", "footer",
                     "form", "button", "select", "aside", "iframe"})  # fmt: skip
_BLOCKS = frozenset({"p", "div", "li", "br", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section",
                     "article", "pre", "td", "th", "dd", "dt", "blockquote", "main"})  # fmt: skip
_WORD = re.compile(r"[^\W\d_]+|\d+", re.UNICODE)
_HAN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
_END = re.compile(r"(?<=[.!?。！？；])\s*")


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._silent: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in _SILENT:
            self._silent.append(tag)
        elif tag in _BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._silent:
            while self._silent.pop() != tag:
                pass
        elif tag in _BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.parts.append(data)


def text_of(data: bytes, content_type: str) -> str:
    """The text of a page, line by line; "" for what is no text."""
    kind, _, rest = content_type.partition(";")
    kind = kind.strip().lower()
    charset = re.search(r"charset=[\"']?([\w.-]+)", rest.lower())
    if charset is None and "html" in kind:
        charset = re.search(r"<meta[^>]{0,200}?charset=[\"']?([\w.-]+)",
                            data[:2048].decode("latin-1").lower())  # fmt: skip
    try:
        text = data.decode(charset.group(1) if charset else "utf-8", "replace")
    except LookupError:
        text = data.decode("utf-8", "replace")
    text = text[:MOST_TEXT]
    if kind in ("text/html", "application/xhtml+xml", ""):
        reader = _Text()
        reader.feed(text)
        reader.close()
        text = "".join(reader.parts)
    elif not kind.startswith("text/"):
        return ""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def split(text: str) -> list[str]:
    """Passages of at most SIZE characters, ended where a line or a sentence is."""
    out: list[str] = []
    now = ""
    for line in text.split("\n"):
        for piece in _pieces(line):
            if now and len(now) + len(piece) + 1 > SIZE:
                out.append(now)
                now = ""
            now = f"{now}\n{piece}" if now else piece
    return [*out, now] if now else out


def _pieces(line: str) -> Iterable[str]:
    if len(line) <= SIZE:
        yield line
        return
    for sentence in _END.split(line):
        for at in range(0, len(sentence), SIZE):
            yield sentence[at : at + SIZE]


def best(passages: Iterable[str], query: str, count: int) -> list[str]:
    """Those that have most of the query's words, in the order they stood in."""
    wanted = set(terms(query))
    scored = []
    for place, passage in enumerate(passages):
        counts = Counter(terms(passage))
        hits = sum(1 for term in wanted if counts[term])
        if hits:
            scored.append((-hits, -sum(counts[t] for t in wanted), place, passage))
    chosen = sorted(scored)[:count]
    return [passage for _, _, _, passage in sorted(chosen, key=lambda one: one[2])]


def terms(text: str) -> list[str]:
    """Words, and pairs of characters where a script has no blanks."""
    out: list[str] = []
    for word in _WORD.findall(text.lower()):
        at = 0
        for run in _HAN.finditer(word):
            if run.start() > at:
                out.append(word[at : run.start()])
            chars = run.group()
            out += [chars[i : i + 2] for i in range(len(chars) - 1)] or [chars]
            at = run.end()
        if at < len(word):
            out.append(word[at:])
    return out
