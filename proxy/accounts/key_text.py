"""The text of API keys that the gateway makes: `sk-`, 27 random characters, 6 of a checksum.

The random part has 160 bits, so it cannot be guessed, whatever is known of its digest. The checksum
is the CRC-32 of that part: a mistyped or made-up key is refused without a look into the database.
Both parts are written in base 62, like GitHub's tokens.
"""

from __future__ import annotations

import re
import zlib
from hashlib import blake2b

PREFIX = "sk-"
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
RANDOM, CHECK = 27, 6  # characters
BYTES = 20  # of randomness: 160 bits
DIGEST = 64  # characters of a digest
_ANYWHERE = re.compile(f"{PREFIX}[0-9A-Za-z]{{{RANDOM + CHECK},}}")
_FORM = re.compile(f"{PREFIX}([0-9A-Za-z]{{{RANDOM}}})([0-9A-Za-z]{{{CHECK}}})")


def make(randomness: bytes) -> str:
    """The key with this randomness, of BYTES bytes."""
    if len(randomness) != BYTES:
        raise ValueError(f"a key is made of {BYTES} random bytes")
    body = _base62(int.from_bytes(randomness, "big"), RANDOM)
    return PREFIX + body + _checksum(body)


def is_well_formed(text: str) -> bool:
    """Whether the text may be a key of a gateway's store: right in form and checksum."""
    match = _FORM.fullmatch(text)
    return match is not None and _checksum(match[1]) == match[2]


def digest(text: str, secret: bytes) -> str:
    """The digest under which a key is stored: BLAKE2b with the secret of the store, 64 hexadecimal
    digits."""
    return blake2b(text.encode(), digest_size=32, key=secret, person=b"slotproxy key").hexdigest()


def shown(text: str) -> str:
    """The key as lists show it: its last four characters, as LiteLLM does."""
    return f"{PREFIX}...{text[-4:]}"


def without_keys(text: str) -> str:
    """The text with `sk-...` in place of everything in the form of a key."""
    return _ANYWHERE.sub(f"{PREFIX}...", text) if PREFIX in text else text


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), CHECK)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, len(DIGITS))
        digits.append(DIGITS[digit])
    return "".join(reversed(digits))
