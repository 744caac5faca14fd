"""The life of the services: everything that ends with the process ends here, in a written order.

    serving ──leave──> leaving ──end_requests──> ending ──close──> closed

The server (`proxy.server.serve`) takes these steps, by one clock. Between the first two, answers
under way continue for the grace, unless `busy` is False. `close` ends everything in the order of
`Step`; a step that takes too long is left behind. Every way out of the process calls `close`. All
methods may be called again, and from any thread.
"""

from __future__ import annotations

import enum
import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable

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
