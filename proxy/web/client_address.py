"""Client addresses behind trusted proxies.

A proxy appends the address it sees to `X-Forwarded-For`; those to the left may be forged. So the
client's address is the rightmost one that does not belong to a trusted proxy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

Address = IPv4Address | IPv6Address
UNIX = "unix"  # stands for peers on a Unix socket, which have no address
LONGEST = 4096  # characters of a header that are read, from its end


class TrustedProxies:
    """Trusted proxies by address, network (10.0.0.0/8) or `unix`. Raises ValueError."""

    def __init__(self, named: Iterable[str]) -> None:
        names = set(named)
        self._unix = UNIX in names
        self._networks = [ip_network(name, strict=False) for name in names - {UNIX}]

    def client(self, environ: Mapping[str, Any]) -> str:
        """The client's address, or the peer's if that is no trusted proxy or sends none."""
        peer = str(environ.get("REMOTE_ADDR") or "")
        if not self._trusts(peer):
            return peer
        client = peer
        forwarded = str(environ.get("HTTP_X_FORWARDED_FOR") or "")
        for hop in reversed(forwarded[-LONGEST:].split(",")):
            address = _address(hop)
            if address is None:
                break  # "unknown", an obfuscated name or nonsense: ignore everything left of it
            client = str(address)
            if not self._trusts(client):
                break
        return client

    def _trusts(self, peer: str) -> bool:
        if not peer:
            return self._unix
        address = _address(peer)
        return address is not None and any(
            address.version == network.version and address in network for network in self._networks
        )


@lru_cache(maxsize=1024)
def _address(text: str) -> Address | None:
    """Parse `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`."""
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
    """Return the address range that counts as one client: an IPv4 address or an IPv6 /64."""
    address = _address(peer)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False))
    return peer
