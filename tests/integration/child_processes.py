"""Child processes of a gateway, read from Linux's /proc."""

from __future__ import annotations

from pathlib import Path


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    pids, left = [], [pid]
    while left:
        children = parents.get(left.pop(), [])
        pids += children
        left += children
    return pids


def children(pid: int) -> list[int]:
    """The workers of a gateway."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
