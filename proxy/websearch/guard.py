"""Which addresses a page may be read from: those of the open internet, and no others.

A page's address comes from a search engine, or from a redirect, so from a stranger. A name is
resolved once, every address it has is judged, and the connection goes to the one that was judged:
a name that says something else a moment later changes nothing.
"""

from __future__ import annotations

import ipaddress
import socket

from ..errors import Forbidden, UpstreamFault

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def public(address: Address) -> bool:
    """Whether it is of the open internet; also what an IPv6 address carries within it is."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return public(inner)
        if address.teredo is not None:
            return False
        if address.is_site_local:  # fec0::/10, private before fc00::/7 was; Python calls it global
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def resolve(host: str, port: int, *, open_only: bool) -> str:
    """The address to connect to. Raises UpstreamFault where there is none, Forbidden where one of
    them is not of the open internet and `open_only`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UpstreamFault("the name of a web server cannot be resolved") from None
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses:
        raise UpstreamFault("the name of a web server cannot be resolved")
    if open_only:
        for text in addresses:
            if not public(ipaddress.ip_address(text.partition("%")[0])):
                raise Forbidden("the page is at an address that is not of the open internet")
    return addresses[0]
