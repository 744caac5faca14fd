"""Whether slotproxy can listen at an address, and if not, why and what to do."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PATIENCE = 0.3  # seconds for the worker of a killed slotproxy to end
PAUSE = 0.05  # seconds between two tries
LISTENS = "0A"  # the state of a socket in /proc/net/tcp
REMEDIES = {
    errno.EACCES: "this user may not; choose a port above 1023 with --port",
    errno.EADDRNOTAVAIL: "this machine has no such address; --host 0.0.0.0 is all of them",
}


def obstacle(host: str, port: int) -> str:
    """Why nothing can listen there, "" if it can."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
                if os.name != "nt":  # there it would share the port
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
            return ""
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                why = REMEDIES.get(error.errno or 0, str(error))
            elif time.monotonic() >= end:
                why = f"{holder(port)} uses the port; choose another with --port, or end it"
            else:
                time.sleep(PAUSE)
                continue
            return f"cannot listen on {host}:{port}: {why}"


def holder(port: int) -> str:
    """Who listens on a port, as far as /proc shows it to this user."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    for folder in Path("/proc").glob("[0-9]*") if sockets else ():
        with suppress(OSError):
            if any(os.readlink(file) in sockets for file in (folder / "fd").iterdir()):
                words = (folder / "cmdline").read_text().split("\0")
                name = "python -m proxy" if words[1:3] == ["-m", "proxy"] else Path(words[0]).name
                return f"{name} (process {folder.name})"
    return "another program"


def _listening(port: int) -> Iterator[str]:
    for file in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        rows = file.read_text().splitlines()[1:] if file.exists() else ()
        for row in map(str.split, rows):
            if row[3] == LISTENS and int(row[1].rpartition(":")[2], 16) == port:
                yield row[9]
