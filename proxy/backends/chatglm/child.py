"""``python -m proxy.backends.chatglm.child LISTENER ALIVE PATH N_CTX IDLE``: runs the engine in a
process of its own.

LISTENER is the file descriptor of the listening socket. ALIVE is that of a pipe that all users of
the engine hold open for writing: when the last of them has closed it, for whatever reason, this
process must end. It does so between two tokens once it has no connections. Linux is asked to end it
even during the evaluation of a prompt, which may take minutes without running any other Python.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import selectors
import signal
import socket
import sys

from .engine import serve
from .protocol import Load
from .server_socket import Peers

POLITE = 5
SINCE = (5, 6)  # older Linux signals every closed end, not just the last


def main(argv: list[str]) -> int:
    listener, alive = int(argv[1]), int(argv[2])
    load = Load(argv[3], int(argv[4]), float(argv[5]))
    # Ctrl-C in a terminal is for the parents, which end this process by disconnecting.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with(alive)
    with contextlib.suppress(OSError):
        os.nice(POLITE)
    serve(Peers(selectors.DefaultSelector(), socket.socket(fileno=listener)), load)
    return 0


def _end_with(pipe: int) -> None:
    """Have the kernel send SIGIO, which ends the process, when the last writer closes the pipe."""
    release = re.match(r"(\d+)\.(\d+)", platform.release())
    if sys.platform != "linux" or release is None:
        return
    if (int(release[1]), int(release[2])) < SINCE:
        return
    import fcntl
    import select

    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | fcntl.FASYNC)
    before = select.poll()
    before.register(pipe, 0)
    if before.poll(0):  # it was closed before that
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
