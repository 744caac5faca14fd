"""Names of the processes that write rows others wait for, and whether such a process is gone.

A name is `host:pid:random`. On the same host a dead process is known at once by its pid; of another
host nothing is known, so rows carry a sign of life beside it.
"""

from __future__ import annotations

import os
import socket
import sys
import uuid


def new_name() -> str:
    """For a writer in this process."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def is_gone(writer: str) -> bool:
    """Whether it was a process of this host that has ended. False where that cannot be known."""
    host, _, rest = writer.partition(":")
    pid = rest.partition(":")[0]
    if sys.platform == "win32" or host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
