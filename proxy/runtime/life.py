"""The life of the services: everything that ends with the process ends here, in a written order,
by a clock that all servers share.

    serving ──leave──> leaving ──end_requests──> ending ──close──> closed

    0 ............ GRACE ............ GRACE + CUT ............ GRACE + SHUTDOWN
    │ answers go on │ they are ended  │ what is left is cut,   │ gunicorn kills
    │               │ with an error   │ all is closed          │

SIGTERM starts the clock at 0, and SIGINT (Ctrl-C) at GRACE. The server (`proxy.server.serve`) takes
the steps. Between the first two, answers under way continue, unless `busy` is False. `close` ends
everything in the order of `Step`; a step that takes too long is left behind. Every way out of the
process calls `close`. All methods may be called again, and from any thread.
"""

from __future__ import annotations

import enum
import logging
import math
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable

GRACE = 30  # seconds that answers under way get
CUT = 3.0  # seconds for the errors of those that took longer
# Seconds from the grace to the end of the process: models take 10 to save their slots, 10 to end.
SHUTDOWN = 40
USUAL_STOP = 10.0
TWICE = 0.3  # seconds within which one Ctrl-C may come twice
MARGIN = 2.0  # seconds before gunicorn's kill


def shutdown_seconds(stops: Iterable[float]) -> int:
    """SHUTDOWN, and more for models of which one may take longer than usual to stop."""
    return SHUTDOWN + round(max([USUAL_STOP, *stops]) - USUAL_STOP)


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


log = logging.getLogger("slotproxy")

ENDING = 3.0  # seconds for requests that were ended to be counted
LOOK = 0.02  # seconds between two looks for that


class Step(enum.Enum):
    """What ends, in this order, and within how many seconds. Counts come first, because a killed
    process would lose them; the database comes last, because the others use it."""

    BATCHES = "batches", 5.0
    LEDGER = "the ledger", 6.0
    LIMITS = "limits", 2.0
    TOOLS = "tools", 2.0
    TRACES = "traces", 2.0
    MODELS = "models", math.inf
    BACKENDS = "backends", 3.0
    TABLES = "shared tables", 2.0
    DATABASE = "the database", 6.0

    def __init__(self, label: str, seconds: float) -> None:
        self.label = label
        self.seconds = seconds


class Life:
    """`on_leave` and `on_end` are called by `leave` and `end_requests`, and must not wait. Requests
    are under way, or not written yet, while one of `working` is true."""

    def __init__(self) -> None:
        self.on_leave: list[Callable[[], object]] = []
        self.on_end: list[Callable[[], object]] = []
        self.working: list[Callable[[], bool]] = []
        self.reload: Callable[[], object] = lambda: None  # a server that can reread its settings
        self._on_close: defaultdict[Step, list[Callable[[], object]]] = defaultdict(list)
        self._left = self._closed = False
        self._lock = threading.Lock()

    def on_close(self, step: Step, close: Callable[[], object]) -> None:
        """Call this in a step of `close`; within a step, the last one added first."""
        self._on_close[step].insert(0, close)

    @property
    def busy(self) -> bool:
        return any(working() for working in self.working)

    def leave(self) -> None:
        """End what no request needs. Does not wait."""
        with self._lock:
            left, self._left = self._left, True
        if not left:
            for work in self.on_leave:
                _tried("stopping", work)

    def end_requests(self) -> None:
        """End all requests, and those that begin from now on, with an error that says so."""
        for work in self.on_end:
            _tried("ending requests", work)

    def close(self, seconds: float = 30.0) -> None:
        """End everything, within so many seconds."""
        with self._lock:
            closed, self._closed = self._closed, True
        if closed:
            return
        end = time.monotonic() + seconds
        self.leave()
        self.end_requests()
        counted = min(end, time.monotonic() + ENDING)
        while self.busy and time.monotonic() < counted:
            time.sleep(LOOK)
        models = self._begin(Step.MODELS)
        steps = [step for step in Step if step in self._on_close]
        for number, step in enumerate(steps, start=1):
            running = models if step is Step.MODELS else self._begin(step)
            # The models end meanwhile: nothing is kept back for them.
            reserved = sum(later.seconds for later in steps[number:] if later is not Step.MODELS)
            left = end - time.monotonic() - reserved
            running.join(min(step.seconds, max(0.1, left)))
            if running.is_alive():
                log.warning("stopping: %s took too long and was left behind", step.label)

    def _begin(self, step: Step) -> threading.Thread:
        def work() -> None:
            for close in self._on_close.get(step, ()):
                _tried(f"closing {step.label}", close)

        thread = threading.Thread(target=work, name="stop", daemon=True)
        thread.start()
        return thread


def _tried(what: str, work: Callable[[], object]) -> None:
    """Log an error instead of raising it: what follows must end too."""
    try:
        work()
    except Exception:
        log.exception("%s failed", what)
