"""Looks up the addresses of PostgreSQL hosts in threads of its own, with a deadline.

psycopg would look them up in the ten native threads that serve all blocking calls, without counting
the time towards its connect_timeout: a silent name server would block all of them.
"""

from __future__ import annotations

import _socket  # gevent replaces the functions of `socket`; these run in a native thread
import time
from collections.abc import Mapping
from functools import partial
from ipaddress import ip_address
from typing import Any

from ..runtime.blocking import NativeThreads, run_in_native_thread

_threads = NativeThreads(2)


def with_addresses(options: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Return the connection options with `hostaddr` for host names. Raises OSError: a TimeoutError
    after `timeout` seconds."""
    hosts = str(options.get("host") or "").split(",")
    if "hostaddr" in options or not all(map(_is_name, hosts)):
        return dict(options)  # psycopg uses addresses and sockets unchanged
    ports = str(options.get("port") or "").split(",")
    if len(ports) != len(hosts):
        ports = ports[:1] * len(hosts)
    end = time.monotonic() + timeout
    located_hosts: list[tuple[str, str, str]] = []
    failure: OSError | None = None
    for host, port in zip(hosts, ports, strict=True):
        try:
            seconds = max(end - time.monotonic(), 0.01)
            addresses = run_in_native_thread(partial(_addresses, host), _threads, timeout=seconds)
            located_hosts += [(host, address, port) for address in addresses]
        except OSError as error:
            failure = error
    if failure is not None and not located_hosts:
        raise failure
    columns = (",".join(column) for column in zip(*located_hosts, strict=True))
    located = dict(zip(("host", "hostaddr", "port"), columns, strict=True))
    if not options.get("port"):
        del located["port"]  # the port may come from the environment
    return {**options, **located}


def _is_name(host: str) -> bool:
    if not host or host.startswith(("/", "@")):
        return False
    try:
        ip_address(host)
    except ValueError:
        return True
    return False


def _addresses(host: str) -> list[str]:
    answers = _socket.getaddrinfo(host, None, 0, _socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in answers]
