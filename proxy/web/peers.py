"""The address of who asks, through proxies that are trusted to tell it, and of no others.

A proxy appends the address it saw to `X-Forwarded-For`, or to `Forwarded` (RFC 7239). What stands
left of that was sent by the client and may be made up, so the address is the rightmost one that is
not of a trusted proxy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

Address = IPv4Address | IPv6Address
UNIX = "unix"  # names whoever comes through a Unix socket, where there is no address
LONGEST = 4096  # characters of a header that are looked at, from its end
_FOR = re.compile(r'(?i)(?:^|;)\s*for\s*=\s*"?([^";]*)"?')


class TrustedProxies:
    """`named` are addresses, networks (10.0.0.0/8), or `unix`. Raises ValueError."""

    def __init__(self, named: Iterable[str]) -> None:
        names = list(named)
        self._unix = UNIX in names
        self._networks: list[IPv4Network | IPv6Network] = [
            ip_network(one, strict=False) for one in names if one != UNIX
        ]

    def client(self, environ: Mapping[str, Any]) -> str:
        """The address of this request's client; the peer's own where that is no proxy of ours, or
        tells none."""
        peer = str(environ.get("REMOTE_ADDR") or "")
        if not self._trusts(peer):
            return peer
        found = peer
        for one in reversed(_told(environ)):
            address = _address(one)
            if address is None:
                break  # "unknown", an obfuscated name, or nonsense: nothing left of it counts
            found = str(address)
            if not self._trusts(found):
                break
        return found

    def _trusts(self, peer: str) -> bool:
        if not peer:
            return self._unix
        address = _address(peer)
        return address is not None and any(
            address.version == one.version and address in one for one in self._networks
        )


def _told(environ: Mapping[str, Any]) -> list[str]:
    """What proxies have told, the nearest last."""
    forwarded = environ.get("HTTP_X_FORWARDED_FOR")
    if forwarded:
        return str(forwarded)[-LONGEST:].split(",")
    standard = environ.get("HTTP_FORWARDED")
    if not standard:
        return []
    return [
        match.group(1) if (match := _FOR.search(one)) else ""
        for one in str(standard)[-LONGEST:].split(",")
    ]


@lru_cache(maxsize=1024)
def _address(text: str) -> Address | None:
    """Of `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`."""
    text = text.strip()
    if len(text) > 64:
        return None
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


@lru_cache(maxsize=1024)
def neighbourhood(peer: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 network of an IPv6 one."""
    address = _address(peer)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False))
    return peer
