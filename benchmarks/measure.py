"""CPU and memory of a process and its children, read from /proc. Linux only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """Return the process and all its descendants."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                parents.setdefault(int(_stat(int(folder.name))[1]), []).append(int(folder.name))
    pids = [pid]
    for parent in pids:
        pids += parents.get(parent, [])
    return pids


def cpu(pid: int) -> float:
    """Return the CPU seconds of the family so far, including ended children."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            fields = _stat(member)
            total += sum(int(fields[i]) for i in (11, 12, 13, 14))
    return total * TICK


def memory(pid: int) -> float:
    """Return the megabytes of the family; shared memory is divided among its users."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Pin processes started in this block to a core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name, which may contain anything: state,
    parent, …"""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
