"""MCP servers that a request names: which of their tools the model may call, and which calls the
client approves first."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from urllib.parse import SplitResult, unquote, urlsplit

from msgspec import Struct

SEPARATOR = "__"
LABEL = re.compile(r"[A-Za-z](?:[A-Za-z0-9-]|_(?!_|$)){0,63}")
"""How a server is named. The model sees its tools as functions named after both, so a label cannot
contain the separator, nor end as it begins: two tools would have one name."""


LABEL_RULE = (
    "must be 1 to 64 letters, digits, - or _, begin with a letter, and contain no __ nor end in _"
)


class ToolFilter(Struct, frozen=True):
    """Some tools of a server: those with these `names` (None for all) that are not in `without`.
    `read_only` is compared with what the server says about the tool, None for both."""

    names: frozenset[str] | None = None
    without: frozenset[str] = frozenset()
    read_only: bool | None = None

    def fits(self, name: str, read_only: bool) -> bool:
        if self.names is not None and name not in self.names:
            return False
        return name not in self.without and self.read_only in (None, read_only)


class Approval(Struct, frozen=True):
    """Which calls the client approves first: those that fit `always`. Of the others, those that do
    not fit `never`, or none if there is only `always`. With neither, all."""

    always: ToolFilter | None = None
    never: ToolFilter | None = None

    def asks(self, name: str, read_only: bool) -> bool:
        if self.always is not None and self.always.fits(name, read_only):
            return True
        if self.never is not None:
            return not self.never.fits(name, read_only)
        return self.always is None


class McpServer(Struct, frozen=True, kw_only=True):
    """A server whose tools the gateway calls for the model: a configured one, unless the request
    has a `url`, with `headers` for it. `listed`: the client has the list of its tools.
    `required`: the request fails if they cannot be listed."""

    label: str
    url: str = ""
    headers: Mapping[str, str] = {}
    allowed: ToolFilter = ToolFilter()
    approval: Approval = Approval()
    listed: bool = False
    required: bool = False

    def function(self, tool: str) -> str:
        return function_name(self.label, tool)


class ServerCall(Struct, frozen=True, kw_only=True):
    """A call to an MCP server: one event when it begins, and another, with `output` or `error`,
    when it is `over`. `code` is a JSON-RPC code if the server failed. `id` is the model's.
    `approval` is that of the request for approval, if the client has approved the call: it is made
    before the model continues, and the tool message of that id gets the result."""

    id: str
    label: str
    name: str
    arguments: str
    approval: str = ""
    over: bool = False
    output: str = ""
    error: str = ""
    code: int = 0


def function_name(label: str, tool: str) -> str:
    return f"{label}{SEPARATOR}{tool}"


# Which URLs of MCP servers requests may name: patterns such as https://*.example.com/mcp/*.
#
# `*` stands for any text, but never reaches from the host into the path. Pure: whether an address
# is private is found out by those who connect to it.

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
    scheme, port, *patterns = _places(pattern)
    url_scheme, url_port, *places = _places(url)
    return (scheme, port) == (url_scheme, url_port) and all(map(_fits, patterns, places))


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


def _places(url: str) -> tuple[str, int, str, str]:
    """Scheme, port, host, and path with the query."""
    parts = parsed(url)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    return parts.scheme, parts.port or PORTS[parts.scheme], parts.hostname or "", path


def _fits(pattern: str, text: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None
