"""Restricts MCP servers of requests to public internet addresses, against server-side request
forgery.

A name is resolved once, all its addresses are checked, and the connection goes to a checked
address. A name that resolves differently a moment later (DNS rebinding) has no effect.
"""

from __future__ import annotations

import ipaddress
import socket

from ..errors import Forbidden, UpstreamFault

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def public(address: Address) -> bool:
    """Whether the address, and any IPv4 address embedded in it, is on the public internet."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return public(inner)
        if address.teredo is not None:
            return False
        if address.is_site_local:  # fec0::/10, deprecated private range; Python considers it global
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def resolve(host: str, port: int, *, open_only: bool) -> str:
    """The address to connect to. Raises UpstreamFault if there is none, and Forbidden if
    `open_only` is set and any of the host's addresses is not public."""
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UpstreamFault("the server's host name cannot be resolved") from None
    addresses = [str(entry[4][0]) for entry in entries]
    for text in addresses if open_only else ():
        if not public(ipaddress.ip_address(text.partition("%")[0])):
            raise Forbidden("the address is not on the public internet")
    return addresses[0]
