"""Whether the server that was started here is what listens at its port.

Another user's program that listens there first would get the key of the server and the prompts. So
nothing is sent on a new connection before Linux has named the owners of two sockets: the port's
listener, and the other end of the connection, as the listener may have closed since.

A socket is the server's if its user is ours, root (as for containers), or one of the server's
session. Where /proc does not tell, nothing is checked.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import BackendDown
from ..runtime.blocking import run_in_native_thread
from .process import in_session

PROC = Path("/proc")
# Local address and port, remote port, state, user and inode of a socket.
_ROW = re.compile(
    rb"^ *\d+: ([0-9A-F]+):(.{4}) [0-9A-F]+:(.{4}) (..) \S+ \S+ \S+ +(\d+) +\d+ (\d+)", re.M
)
_LISTENS = b"0A"


class PortGuard:
    """Of one server. `watch` names its process; before that, everything that listens is foreign.
    `foreign` says who else was found to listen, "" for nobody."""

    def __init__(self) -> None:
        self.foreign = ""
        self._pid = 0

    def watch(self, pid: int) -> None:
        self._pid = pid

    def check(self, sock: Any) -> None:
        """Raises BackendDown if the other end of a new connection is not the server's."""
        peer, own = sock.getpeername(), sock.getsockname()
        local = peer[0] == "::1" or peer[0].startswith(("127.", "::ffff:127."))
        if local and sock.family in (socket.AF_INET, socket.AF_INET6):
            users = partial(_users, sock.family, peer[0], peer[1], own[1])
            strangers = run_in_native_thread(lambda: self._strangers(users()))
            if strangers:
                user = min(strangers)
                ours = user == os.geteuid()
                self.foreign = "another program" if ours else f"a program of the user {user}"
                raise BackendDown(f"{self.foreign} listens at the port of the model's server")

    def _strangers(self, users: set[int]) -> set[int]:
        """The users among these whose sockets are foreign."""
        if self._pid:
            users = users - {0, os.geteuid()}
        if users and self._pid:
            users = users - set(map(_user, in_session(self._pid)))
        return users


def _users(family: int, host: str, port: int, own: int) -> set[int]:
    """The users of the sockets that listen there, and of the end of a connection at port `own`."""
    packed = socket.inet_pton(family, host)
    places = {_hex(bytes(4)), _hex(bytes(16)), _hex(packed)}
    if len(packed) == 4:
        places.add(_hex(bytes(10) + b"\xff\xff" + packed))
    users = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for row in _ROW.finditer((PROC / "net" / table).read_bytes()):
                at, local, remote, state, user, inode = row.groups()
                if int(local, 16) != port or at not in places:
                    continue
                # Linux tells no user of a connection that its server has not accepted yet.
                if state == _LISTENS or (int(remote, 16) == own and inode != b"0"):
                    users.add(int(user))
    return users


def _hex(packed: bytes) -> bytes:
    """An address as Linux prints it: words of the processor's own order."""
    words = (packed[begin : begin + 4] for begin in range(0, len(packed), 4))
    return b"".join(b"%08X" % int.from_bytes(word, sys.byteorder) for word in words)


def _user(pid: int) -> int:
    """The user as which a process runs; ours if it has ended."""
    with contextlib.suppress(OSError):
        return (PROC / str(pid)).stat().st_uid
    return os.geteuid()
