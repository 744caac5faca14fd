"""What is kept of a body: without keys and files, and of a bounded size. Pure."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any

MOST = 1 << 20  # bytes of a body that are kept
BLOB = 1024  # characters of base64 without `data:` that are a file
LEAST = 8  # characters of a secret
HIDDEN = b"[key]"

_URL = re.compile(rb"()data:([\w.+-]+\\?/[\w.+-]+)(?:;[\w=.+-]+)*;base64,([\w+/\\-]*=*)")
_TEXT = re.compile(rb'(")()([\w+/\\-]{%d,}=*)' % BLOB)
# What a secret looks like, and a part of it that is found fast. Names of fields may also be in JSON
# within a text.
_SECRETS = [
    (b"sk-", re.compile(rb"()\bsk-[\w-]{16,}")),
    (b"earer ", re.compile(rb"(?i)(\bbearer )[\w.~+/=-]{8,}")),
    (b"@", re.compile(rb"(://)[^\s/@\"\\]+(?=@)")),
    *(
        (part, re.compile(rb'(?i)(\\*"[\w-]*%b\\*"\s*:\s*\\*")[^"\\]+' % part))
        for part in b"authorization authorization_token access_token api_key api-key apikey secret"
        b" password".split()
    ),
]


def bodies(
    given: Iterable[tuple[bytes, int]], secrets: Iterable[bytes] = ()
) -> Iterator[dict[str, Any]]:
    """The text that is kept of each body, and how many bytes are missing: those behind it, and
    those of a text that is too long. The secrets are in none."""
    kept = [(data, missing) for data, missing in given]
    every = b"\n".join(data for data, _ in kept).lower()
    patterns = [pattern for part, pattern in _SECRETS if part in every]
    known = [secret for secret in secrets if len(secret) >= LEAST and secret.lower() in every]
    for data, missing in kept:
        if b"\0" in data[:4096]:
            data = _note(b"binary", data)
        data = without_files(data)
        for secret in known:
            data = data.replace(secret, HIDDEN)
        for pattern in patterns:
            data = pattern.sub(rb"\1" + HIDDEN, data)
        missing += max(0, len(data) - MOST)
        yield {"text": data[:MOST].decode(errors="replace"), "missing": missing}


def without_files(data: bytes) -> bytes:
    """The text with type, size and digest in place of each `data:` URL, and of each other long text
    of JSON that is base64."""
    if b";base64," in data:
        data = _URL.sub(_file, data)
    return _TEXT.sub(_file, data) if len(data) > BLOB else data


def _file(found: re.Match[bytes]) -> bytes:
    text = found[3].replace(b"\\", b"")
    try:
        content = b64decode(text)
    except Error:  # it was cut
        content = text
    return found[1] + _note(found[2].replace(b"\\", b"") or b"base64", content)


def _note(kind: bytes, content: bytes) -> bytes:
    digest = sha256(content).hexdigest()[:16].encode()
    return b"[%b, %d bytes, sha256 %b]" % (kind, len(content), digest)
