"""MCP servers that requests name by URL.

Each is used by child processes of the request alone, so that no session is shared between keys.
They are confined as readers of web pages are, and connect to checked addresses only.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from ..core.mcp import fitting, names_address
from ..errors import Forbidden, InvalidParameter, QueueFull
from ..runtime.subprocesses import Children
from .functions import ChildTool, Reach, Server

MOST = 16  # servers in use at once, for all requests together


class Remotes:
    """`patterns` are the URLs that requests may name, as `core.mcp` reads them."""

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self._patterns = tuple(patterns)
        self._lock = threading.Lock()
        self._used = 0

    def open(self, label: str, url: str, headers: Mapping[str, str]) -> Remote:
        """A server, to be closed. Raises Forbidden, InvalidParameter and QueueFull."""
        try:
            found = fitting(self._patterns, url)
        except ValueError as error:
            raise InvalidParameter("server_url", str(error)) from None
        if not found:
            raise Forbidden(
                "requests may not use MCP servers at this URL: the administrator allows URLs with"
                " --mcp-url",
                param="server_url",
            )
        with self._lock:
            if self._used >= MOST:
                raise QueueFull("too many MCP servers are in use: try again", retry_after=5.0)
            self._used += 1
        reach: Reach = "any" if any(map(names_address, found)) else "public"
        return Remote(self, Server(name=label, url=url, headers=dict(headers), reach=reach))

    def closed(self) -> None:
        """A server was closed."""
        with self._lock:
            self._used -= 1


class Remote:
    """A server in use."""

    def __init__(self, remotes: Remotes, server: Server) -> None:
        self._remotes: Remotes | None = remotes
        self._server = server
        self._children: Children | None = None

    def tools(self) -> list[ChildTool]:
        """Its tools. Raises UpstreamFault and UpstreamTimeout."""
        from . import mcp  # lazy: asyncio and jsonschema are needed only with MCP servers

        self._children = mcp.children(self._server)
        return mcp.tools(self._server, self._children)

    def close(self) -> None:
        """Idempotent."""
        remotes, self._remotes = self._remotes, None
        if remotes is not None:
            remotes.closed()
        if self._children is not None:
            self._children.close()
