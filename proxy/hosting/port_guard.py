"""Whether the server that was started here is what listens at its port.

All users of the machine can read the port on the command line, and another user's program that
listens there first would get the key of the server and the prompts. So nothing is sent on a new
connection before Linux has told whose sockets these are: the listening ones of the port, and the
other end of the connection, in case the listener is gone already.

A socket is the server's if a process of its session holds it. A container's port is held by another
process, of root or of our user, that was started after the server's command. Any other socket is
foreign. Where /proc does not tell, nothing is checked.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import BackendDown
from ..runtime.blocking import run_in_native_thread
from .process import in_session, stat

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
        self._pid = self._began = 0
        self._good: set[int] = set()  # inodes of listening sockets

    def watch(self, pid: int) -> None:
        self._pid, self._began = pid, _start(pid)  # /proc forgets ended processes

    def check(self, sock: Any) -> None:
        """Raises BackendDown if the other end of a new connection is not the server's."""
        peer, own = sock.getpeername(), sock.getsockname()
        local = peer[0] == "::1" or peer[0].startswith(("127.", "::ffff:127."))
        if local and sock.family in (socket.AF_INET, socket.AF_INET6):
            table = partial(_sockets, sock.family, peer[0], peer[1], own[1])
            stranger = run_in_native_thread(partial(self._stranger, table))
            if stranger:
                self.foreign = stranger
                raise BackendDown(f"{stranger} listens at the port of the model's server")

    def _stranger(self, sockets: Callable[[], Iterator[tuple[int, int, bool]]]) -> str:
        """Who holds a foreign one of these sockets, "" for nobody."""
        trusted: set[int] = set()
        for user, inode, listens in sockets():
            if inode in self._good:
                continue
            if not self._pid:
                return _named(user)
            trusted = trusted or {0, os.geteuid(), *map(_user, in_session(self._pid))}
            if user not in trusted:
                return _named(user)
            if listens:
                if self._is_older(inode):
                    return "another program"
                self._good.add(inode)
        return ""

    def _is_older(self, inode: int) -> bool:
        """Whether a socket is only held by processes that ran before the server's."""
        if any(inode in _held(pid) for pid in in_session(self._pid)):
            return False
        pids = (int(folder.name) for folder in PROC.glob("[0-9]*"))
        holders = [pid for pid in pids if inode in _held(pid)]
        return bool(holders) and all(_start(pid) < self._began for pid in holders)


def _named(user: int) -> str:
    return f"a program of the user {user}" if user != os.geteuid() else "another program"


def _sockets(family: int, host: str, port: int, own: int) -> Iterator[tuple[int, int, bool]]:
    """User, inode, and whether it listens, of the sockets there, and of the end at port `own`."""
    packed = socket.inet_pton(family, host)
    places = {_hex(bytes(4)), _hex(bytes(16)), _hex(packed)}
    if len(packed) == 4:
        places.add(_hex(bytes(10) + b"\xff\xff" + packed))
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for row in _ROW.finditer((PROC / "net" / table).read_bytes()):
                at, local, remote, state, user, inode = row.groups()
                if int(local, 16) != port or at not in places:
                    continue
                # Linux tells no user of a connection that its server has not accepted yet.
                if state == _LISTENS or (int(remote, 16) == own and inode != b"0"):
                    yield int(user), int(inode), state == _LISTENS


def _hex(packed: bytes) -> bytes:
    """An address as Linux prints it: words of the processor's own order."""
    words = (packed[begin : begin + 4] for begin in range(0, len(packed), 4))
    return b"".join(b"%08X" % int.from_bytes(word, sys.byteorder) for word in words)


def _held(pid: int) -> set[int]:
    """The inodes of the sockets of a process; none of another user's."""
    inodes = set()
    with contextlib.suppress(OSError):
        folder = f"/proc/{pid}/fd"
        for name in os.listdir(folder):
            with contextlib.suppress(OSError, ValueError):
                kind, _, number = os.readlink(f"{folder}/{name}").partition(":[")
                if kind == "socket":
                    inodes.add(int(number.rstrip("]")))
    return inodes


def _user(pid: int) -> int:
    """The user as which a process runs; ours if it has ended."""
    with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):
        text = (PROC / str(pid) / "status").read_text("utf-8", "replace")
        line = next(line for line in text.splitlines() if line.startswith("Uid:"))
        return int(line.split()[2])
    return os.geteuid()


def _start(pid: int) -> int:
    """When a process began, in ticks since the start of the system; 0 if it has ended."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(stat(pid)[19])
    return 0
