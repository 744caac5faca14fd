"""Selects the passages of a page that are relevant to a query. Pure.

A page is converted to lines of text, lines are joined to passages, and passages are ranked by the
number of query words they contain. For Chinese and Japanese, which do not separate words, pairs of
characters count as words.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable

SIZE = 600  # characters of a passage
MOST_TEXT = 200_000  # characters of a page that are used

# Elements without tags inside.
_RAW = frozenset({"script", "style", "textarea", "title", "xmp", "noscript"})
_SILENT = frozenset({"template", "svg", "nav", "footer", "form", "button", "select", "aside"})
_BLOCKS = frozenset({"p", "div", "li", "br", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section",
                     "article", "pre", "td", "th", "dd", "dt", "blockquote", "main"})  # fmt: skip
_WORD = re.compile(r"[^\W\d_]+|\d+", re.UNICODE)
_HAN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
_END = re.compile(r"(?<=[.!?。！？；])\s*")
_TAG = re.compile(r"</?([a-z][a-z0-9]{0,30})")
_HUGE = re.compile(r"&#[0-9a-fA-FxX]{9,}")  # too large for any character


def _of_html(page: str) -> str:
    """The visible text. Takes linear time for any input, since an unterminated tag or comment ends
    the page (the standard library's parser takes minutes for a page of unterminated comments)."""
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
            out.append("<")  # a literal <
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
    """Replaces HTML character references by their characters."""
    return html.unescape(_HUGE.sub("", text))


def text_of(data: bytes, content_type: str) -> str:
    """The text of a page, line by line; "" if it is not text."""
    kind, _, rest = content_type.partition(";")
    kind = kind.strip().lower()
    charset = re.search(r"charset=[\"']?([\w.-]+)", rest.lower())
    if charset is None and "html" in kind:
        charset = re.search(r"<meta[^>]{0,200}?charset=[\"']?([\w.-]+)",
                            data[:2048].decode("latin-1").lower())  # fmt: skip
    try:
        text = data.decode(charset.group(1) if charset else "utf-8", "replace")
    except (LookupError, UnicodeError):  # no such codec, or one that is not for bytes
        text = data.decode("utf-8", "replace")
    text = text[:MOST_TEXT]
    if kind in ("text/html", "application/xhtml+xml", ""):
        text = _of_html(text)
    elif not kind.startswith("text/"):
        return ""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def split(text: str) -> list[str]:
    """Passages of at most SIZE characters that end at a line or sentence."""
    passages: list[str] = []
    passage = ""
    for line in text.split("\n"):
        for piece in _pieces(line):
            if passage and len(passage) + len(piece) + 1 > SIZE:
                passages.append(passage)
                passage = ""
            passage = f"{passage}\n{piece}" if passage else piece
    return [*passages, passage] if passage else passages


def _pieces(line: str) -> Iterable[str]:
    if len(line) <= SIZE:
        yield line
        return
    for sentence in _END.split(line):
        for at in range(0, len(sentence), SIZE):
            yield sentence[at : at + SIZE]


def best(passages: Iterable[str], query: str, count: int) -> list[str]:
    """The passages with the most query words, in their original order."""
    wanted = set(terms(query))
    scored = []
    for place, passage in enumerate(passages):
        counts = Counter(terms(passage))
        hits = sum(1 for term in wanted if counts[term])
        if hits:
            scored.append((-hits, -sum(counts[t] for t in wanted), place, passage))
    chosen = sorted(scored)[:count]
    return [passage for _, _, _, passage in sorted(chosen, key=lambda entry: entry[2])]


def terms(text: str) -> list[str]:
    """Words; pairs of characters in scripts without spaces."""
    words: list[str] = []
    for word in _WORD.findall(text.lower()):
        at = 0
        for run in _HAN.finditer(word):
            if run.start() > at:
                words.append(word[at : run.start()])
            chars = run.group()
            words += [chars[i : i + 2] for i in range(len(chars) - 1)] or [chars]
            at = run.end()
        if at < len(word):
            words.append(word[at:])
    return words
