"""The clock of a stop, which all servers share, and how a signal starts it.

    0 ............ GRACE ............ GRACE + CUT ............ GRACE + SHUTDOWN
    │ answers go on │ they are ended  │ what is left is cut,   │ gunicorn kills
    │               │ with an error   │ all is closed          │

SIGTERM starts it at 0, and SIGINT (Ctrl-C) at GRACE. `proxy.runtime.life` says what ends when.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from proxy.config import ModelConfig

GRACE = 30  # seconds that answers under way get
CUT = 3.0  # seconds for the errors of those that took longer
# Seconds from the grace to the end of the process: models take 10 to save their slots, 10 to end.
SHUTDOWN = 40
USUAL_STOP = 10.0
TWICE = 0.3  # seconds within which one Ctrl-C may come twice
MARGIN = 2.0  # seconds before gunicorn's kill


def shutdown_seconds(models: Sequence[ModelConfig]) -> int:
    """SHUTDOWN, and more for models that may take longer to end."""
    longest = max((model.stop_timeout for model in models), default=0.0)
    return SHUTDOWN + round(max(0.0, longest - USUAL_STOP))


class Wakeup:
    """Wakes a thread from a signal handler, which must take no lock: it writes to a socket."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)

    def set(self) -> None:
        try:  # noqa: SIM105  (as little as possible in a handler)
            self._writer.send(b"!")
        except OSError:
            pass  # it is full, and so set

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is set. Returns False after so many seconds."""
        self._reader.settimeout(seconds)
        try:
            self._reader.recv(4096)
        except TimeoutError:
            return False
        return True
