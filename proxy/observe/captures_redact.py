"""What is kept of a body: without keys and files, and of a bounded size. Pure. A call seldom looks
at more than a megabyte, since other threads want the interpreter, too."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from hashlib import sha256
from itertools import accumulate, product

MOST = 1 << 20  # bytes of a body that are kept
BEYOND = 4096  # bytes behind them in which a key may end
BLOB = 1024  # characters of base64 without `data:` that are a file
STEP = 64 << 10
LEAST = 8  # characters of a secret
HIDDEN = b"[key]"

BASE64 = b";base64,"
LONGEST = 512  # characters of the beginning of a `data:` URL

_URL = re.compile(rb"data:([\w.+-]{1,64}\\?/[\w.+-]{1,64})(?:;[\w=.+-]{1,64}){0,4};base64,")
_BASE64 = re.compile(rb"[\w+/\\=-]*")
# What a secret looks like. Names of fields may also be in JSON within a text.
_BEGIN = rb"(?:\b|(?<=\\[bfnrt]))"  # of a word, also behind a line's end in JSON
_KEY = rb"()" + _BEGIN + rb"sk-[\w-]{8,}"
_BEARER = rb"(?i)(" + _BEGIN + rb"bearer )[\w.~+/=-]{8,}"
_USER = rb"(://)[^\s/@\"\\]{1,256}(?=@)"
_FIELD = rb'(?i)("[\w-]{0,32}%b\\{0,8}"\s{0,8}:\s{0,8}\\{0,8}")[^"\\]+'
_FIELDS = b"authorization authorization_token access_token api_key secret password".split()
# By a word, in small letters, of every text that has a match.
_PATTERNS = {b"sk-": _KEY, b"@": _USER, b"bearer ": _BEARER}
_PATTERNS |= {
    name.replace(b"_", between) + end: _FIELD % name.replace(b"_", b"[_-]?")
    for name, between, end in product(_FIELDS, (b"", b"_", b"-"), (b'"', b"\\"))
}

Body = tuple[bytes, int]  # the stored part of a body, and the number of bytes dropped from it
Sizes = list[tuple[int, int]]  # of joined bodies: the length of each, and its dropped bytes


def split(text: bytes, sizes: Sizes) -> list[Body]:
    ends = accumulate([size for size, _ in sizes])
    return [(text[end - size : end], gone) for end, (size, gone) in zip(ends, sizes, strict=True)]


def is_plain(text: bytes, secrets: Iterable[bytes]) -> bool:
    """Whether there is nothing to leave out of these bodies, which is seen for many together: most
    have nothing."""
    if len(text) > MOST or b"\0" in text or b"@" in text or _next_text(text, 0):
        return False
    find, small = _finder(frozenset(secrets)), text.lower()
    return not any(find(small[at : at + STEP + BEYOND]) for at in range(0, len(small), STEP))


@lru_cache(64)  # the secrets of a key are the same each time
def _finder(secrets: frozenset[bytes]) -> Callable[[bytes], list[tuple[int, int, int]]]:
    """A search for these secrets and the words of all patterns but `@`: the library compares the
    first three letters of all words at once, and is ten times as slow if one is shorter."""
    from ahocorasick_rs import BytesAhoCorasick, MatchKind  # most gateways capture nothing

    words = [BASE64, *_PATTERNS, *[data.lower() for data in secrets if len(data) >= LEAST]]
    words.remove(b"@")
    return BytesAhoCorasick(words, matchkind=MatchKind.LeftmostFirst).find_matches_as_indexes


def redacted(body: Body, secrets: Iterable[bytes] = ()) -> Body:
    """A body without files and secrets, and without what follows a text that is too long."""
    data, missing = without_files(body[0]), body[1]
    text = data[: MOST + BEYOND]
    missing += len(data) - len(text)
    for secret in secrets:
        if len(secret) >= LEAST:
            text = text.replace(secret, HIDDEN)
    small = text.lower()
    for pattern in {pattern: None for word, pattern in _PATTERNS.items() if word in small}:
        text = re.sub(pattern, rb"\1" + HIDDEN, text)
    return text[:MOST], missing + max(0, len(text) - MOST)


def unlike_keys(secrets: Iterable[str]) -> list[bytes]:
    """Those that do not look like a key, so that they must be known to be hidden."""
    return [data for data in map(str.encode, secrets) if not re.fullmatch(_KEY, data)]


def without_files(data: bytes) -> bytes:
    """The text with type, size and digest in place of each `data:` URL, and of each other long text
    of JSON that is base64. Bytes that are no text are a file."""
    if b"\0" in data[:4096]:
        return _note(b"binary", [data])
    for find in (_next_url, _next_text):
        pieces, end = list[bytes](), 0
        while place := find(data, end):
            start, begin, kind = place
            pieces.append(data[end:start])
            runs, end = list[bytes](), begin
            while (run := _BASE64.match(data, end, end + STEP)) and run[0]:
                runs.append(run[0])
                end = run.end()
            pieces.append(_note(kind, _decoded(b"".join(runs).replace(b"\\", b""))))
        data = b"".join((*pieces, data[end:]))
    return data


Place = tuple[int, int, bytes]  # where a file, and where its base64 begins, and its type


def _next_url(data: bytes, at: int) -> Place | None:
    while (mark := data.find(BASE64, at)) >= 0:
        beyond = mark + len(BASE64)
        if url := _URL.search(data, max(at, beyond - LONGEST), beyond):
            return url.start(), beyond, url[1].replace(b"\\", b"")
        at = beyond
    return None


def _next_text(data: bytes, at: int) -> Place | None:
    quote = data.find(b'"', at)
    while 0 <= quote < len(data) - BLOB:
        begin = quote + 1
        quote = data.rfind(b'"', begin, begin + BLOB)  # between quotes, nothing before is as long
        if quote < 0:
            if _BASE64.fullmatch(data, begin, begin + BLOB):
                return begin, begin, b"base64"
            quote = data.find(b'"', begin + BLOB)
    return None


def _decoded(text: bytes) -> Iterator[bytes]:
    for at in range(0, len(text), STEP):
        try:
            yield b64decode(text[at : at + STEP] + b"===")
        except Error:  # it was cut
            return


def _note(kind: bytes, content: Iterable[bytes]) -> bytes:
    digest, size = sha256(), 0
    for piece in content:
        digest.update(piece)
        size += len(piece)
    return b"[%b, %d bytes, sha256 %b]" % (kind, size, digest.hexdigest()[:16].encode())
