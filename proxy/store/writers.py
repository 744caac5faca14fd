"""Names of the processes that write shared rows, and checks whether such a process has died.

A name is `host:pid:random`. On the same host, the pid shows whether the process has died. Processes
on other hosts cannot be checked, so rows also have a heartbeat.
"""

from __future__ import annotations

import os
import socket
import sys
import uuid


def new_name() -> str:
    """Return a new name for a writer in this process."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def is_gone(writer: str) -> bool:
    """Whether the name belongs to a process of this host that has ended. False if unknown."""
    host, _, rest = writer.partition(":")
    pid = rest.partition(":")[0]
    if sys.platform == "win32" or host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except OSError as error:
        return isinstance(error, ProcessLookupError)
    return False
