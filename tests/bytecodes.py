"""Cost in bytecodes: the same on every machine, however busy it is."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def bytecodes(work: Callable[[], Any]) -> int:
    """How many a run of `work` executes, in Python functions it calls as well: the least of three,
    since a finalizer of something else may run within one. What the first run loads does not
    count."""
    work()
    return min(_counted(work) for _ in range(3))


def _counted(work: Callable[[], Any]) -> int:
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before, collects = sys.gettrace(), gc.isenabled()
    gc.disable()  # what other tests left behind is not this one's to clear away
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
        if collects:
            gc.enable()
    return count
