"""Which URLs of MCP servers requests may name: patterns such as https://*.example.com/mcp/*.

`*` stands for any text, but never reaches from the host into the path. Pure: whether an address is
private is found out by those who connect to it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import SplitResult, unquote, urlsplit

LONGEST = 2048  # characters of a URL
PORTS = {"http": 80, "https": 443}
_PLAIN = re.compile(r"[!-~]+")


def parsed(url: str) -> SplitResult:
    """The parts of a URL, or of a pattern. Raises ValueError."""
    parts = urlsplit(url)
    if len(url) > LONGEST or not _PLAIN.fullmatch(url) or "\\" in url:
        raise ValueError(f"must be printable ASCII of at most {LONGEST} characters")
    if parts.scheme not in PORTS or not parts.hostname or parts.port == 0:
        raise ValueError("must be a URL such as https://mcp.example.com/mcp")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("must have no user, password or fragment")
    if {".", ".."} & set(unquote(parts.path).replace("\\", "/").split("/")):
        raise ValueError("must have no . or .. in its path")
    return parts


def pattern(text: str) -> str:
    """The pattern, if it is one. Raises ValueError."""
    parsed(text)
    return text


def permits(pattern: str, url: str) -> bool:
    """Whether the URL fits the pattern. Raises ValueError for a URL that is none."""
    wanted, given = parsed(pattern), parsed(url)
    if wanted.scheme != given.scheme or _port(wanted) != _port(given):
        return False
    path = given.path + (f"?{given.query}" if given.query else "")
    return _fits(wanted.hostname or "", given.hostname or "") and _fits(
        wanted.path + (f"?{wanted.query}" if wanted.query else ""), path
    )


def names_address(pattern: str) -> bool:
    """Whether the host of a pattern is an address, or localhost, and so may be a private one."""
    host = parsed(pattern).hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


def fitting(patterns: Iterable[str], url: str) -> list[str]:
    """The patterns that permit a URL. Raises ValueError for a URL that is none."""
    parsed(url)
    return [pattern for pattern in patterns if permits(pattern, url)]


def _port(parts: SplitResult) -> int:
    return parts.port or PORTS[parts.scheme]


def _fits(pattern: str, text: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None
