"""Patterns of URLs of MCP servers."""

from __future__ import annotations

import pytest

from proxy.core import mcp
from proxy.core.mcp import names_address, permits


@pytest.mark.parametrize(
    ("pattern", "url", "fits"),
    [
        ("https://m.example/mcp", "https://m.example/mcp", True),
        ("https://m.example/mcp", "https://M.example:443/mcp", True),
        ("https://m.example/mcp", "https://m.example/mcp?a=b", False),
        ("https://m.example/mcp", "http://m.example/mcp", False),
        ("https://m.example/mcp", "https://m.example:8443/mcp", False),
        ("https://m.example/*", "https://m.example/a/b?c=d", True),
        ("https://m.example*", "https://m.example.evil/", False),
        ("https://*.example/*", "https://a.b.example/mcp", True),
        ("https://*.example/*", "https://evil.test/.example/mcp", False),
        ("https://*.example/*", "https://evil.test#.example/", None),
        ("https://m.example/a/*", "https://m.example/a/../b", None),
        ("https://m.example/a/*", "https://m.example/a/%2e%2e/b", None),
        ("https://m.example/*", "https://m.example@evil.test/", None),
        ("https://m.example/*", "https://m.example\\@evil.test/", None),
        ("https://m.example/*", "https://m.example/" + "a" * mcp.LONGEST, None),
        ("https://m.example/*", "file:///etc/passwd", None),
        ("https://m.example/*", "https://m.example:99999/", None),
    ],
)
def test_patterns_permit_urls(pattern: str, url: str, fits: bool | None) -> None:
    """None: the URL is refused whatever the pattern."""
    if fits is None:
        with pytest.raises(ValueError, match=r"must|Port"):
            permits(pattern, url)
    else:
        assert permits(pattern, url) is fits


def test_only_addresses_may_be_private() -> None:
    names = ["http://127.0.0.1:1/", "http://[::1]/", "http://localhost/mcp"]
    assert all(map(names_address, names))
    assert not any(map(names_address, ["http://m.example/", "http://*/", "http://127.0.0.*/"]))
