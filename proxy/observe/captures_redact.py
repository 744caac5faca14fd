"""What is kept of a body: without keys and files, and of a bounded size. Pure. A call seldom looks
at more than a megabyte, since other threads want the interpreter, too."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any

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
# What a secret looks like, and a part of it that is found fast. Names of fields may also be in JSON
# within a text.
_BEGIN = rb"(?:\b|(?<=\\[bfnrt]))"  # of a word, also behind a line's end in JSON
_KEY = re.compile(rb"()" + _BEGIN + rb"sk-[\w-]{8,}")
_SECRETS = [
    (b"sk-", _KEY),
    (b"earer ", re.compile(rb"(?i)(" + _BEGIN + rb"bearer )[\w.~+/=-]{8,}")),
    (b"@", re.compile(rb"(://)[^\s/@\"\\]{1,256}(?=@)")),
    *(
        (part, re.compile(rb'(?i)("[\w-]{0,32}%b\\{0,8}"\s{0,8}:\s{0,8}\\{0,8}")[^"\\]+' % part))
        for part in b"authorization authorization_token access_token api_key api-key apikey secret"
        b" password".split()
    ),
]


def bodies(
    given: Iterable[tuple[bytes, int]], secrets: Iterable[bytes] = ()
) -> Iterator[dict[str, Any]]:
    """The text that is kept of each body, and how many bytes are missing: those behind it, and
    those of a text that is too long. The secrets are in none."""
    pairs = [*given]
    every = b"\n".join([data for data, _ in pairs])
    if b"\0" in every or BASE64 in every or _next_text(every, 0):
        pairs = [(without_files(data), missing) for data, missing in pairs]
        every = b"\n".join([data for data, _ in pairs])
    every = every.lower()  # most bodies have nothing to hide, which is seen for all together
    patterns = [(part, pattern) for part, pattern in _SECRETS if part in every]
    own = [secret for secret in secrets if len(secret) >= LEAST and secret.lower() in every]
    for data, missing in pairs:
        text = data
        if patterns or own or len(data) > MOST:
            text = data[: MOST + BEYOND]
            missing += len(data) - len(text)
            for secret in own:
                text = text.replace(secret, HIDDEN)
            small = text.lower()
            for part, pattern in patterns:
                if part in small:
                    text = pattern.sub(rb"\1" + HIDDEN, text)
            missing += max(0, len(text) - MOST)
        yield {"text": text[:MOST].decode(errors="replace"), "missing": missing}


def unlike_keys(secrets: Iterable[str]) -> list[bytes]:
    """Those that do not look like a key, so that they must be known to be hidden."""
    return [data for data in map(str.encode, secrets) if not _KEY.fullmatch(data)]


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
