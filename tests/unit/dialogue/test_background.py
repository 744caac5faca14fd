"""Work beside a stream that ticks."""

from __future__ import annotations

import threading

import pytest

from proxy.dialogue.background import run_with_ticks
from proxy.errors import Cancelled
from proxy.runtime.cancel import Cancel


def test_cancelled_request_ends_with_its_own_error_however_soon_its_work_ends() -> None:
    """With the result of the work, the model would be asked once more."""
    begun = threading.Event()

    def work(cancel: Cancel) -> str:
        ended, thread = threading.Event(), threading.current_thread()
        cancel.add(ended.set)
        cancel.add(lambda: thread.join(60))  # `cancel` returns after the end of the work
        begun.set()
        ended.wait(60)
        return "too late"

    cancel = Cancel()
    steps = run_with_ticks(work, cancel, seconds=60, interval=0.01)
    next(steps)
    assert begun.wait(60)
    cancel.cancel()
    with pytest.raises(Cancelled):
        list(steps)
