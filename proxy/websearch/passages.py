"""The parts of a page that fit a question. Pure.

A page becomes lines of text, those are put together to passages, and passages are ranked by how
many of the question's words they have. Words of Chinese and Japanese are pairs of characters, since
nothing stands between words there.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable

SIZE = 600  # characters of a passage
MOST_TEXT = 200_000  # characters of a page that are looked at

_RAW = frozenset({"script", "style", "textarea", "title", "xmp", "noscript"})  # no tags in them
_SILENT = frozenset({"template", "svg", "nav", "footer", "form", "button", "select", "aside"})
_BLOCKS = frozenset({"p", "div", "li", "br", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section",
                     "article", "pre", "td", "th", "dd", "dt", "blockquote", "main"})  # fmt: skip
_WORD = re.compile(r"[^\W\d_]+|\d+", re.UNICODE)
_HAN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
_END = re.compile(r"(?<=[.!?。！？；])\s*")


_TAG = re.compile(r"</?([a-z][a-z0-9]{0,30})")
_HUGE = re.compile(r"&#[0-9a-fA-FxX]{9,}")  # the number of no character


def _of_html(page: str) -> str:
    """Text between tags, but for what is never shown. Linear in the size of the page, whatever is
    in it: the first mark that has no end is the page's end (the standard library's parser takes
    minutes for a page of unfinished comments)."""
    low = page.lower()
    out: list[str] = []
    silent: list[str] = []
    at = 0
    while at < len(page):
        start = page.find("<", at)
        if not silent:
            out.append(page[at : start if start >= 0 else len(page)])
        if start < 0:
            break
        tag = _TAG.match(low, start)
        if tag is None and low[start + 1 : start + 2] not in ("!", "?", "/"):
            out.append("<")  # a sign in the text
            at = start + 1
            continue
        comment = low.startswith("<!--", start)
        end = low.find("-->" if comment else ">", start)
        if end < 0:
            break
        at = end + (3 if comment else 1)
        if tag is None:
            continue
        name = tag.group(1)
        if low[start + 1] == "/":
            if silent and silent[-1] == name:
                silent.pop()
        elif name in _RAW:
            end = low.find(f"</{name}", at)
            if end < 0:
                break
            at = end
        elif name in _SILENT and low[at - 2] != "/":
            silent.append(name)
        if name in _BLOCKS:
            out.append("\n")
    return unescaped("".join(out))


def unescaped(text: str) -> str:
    """HTML's names and numbers of characters as characters."""
    return html.unescape(_HUGE.sub("", text))


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
        text = _of_html(text)
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
