"""Memory of graphics cards: how much there is, and how much processes hold, as nvidia-smi says.

Cards are numbered as nvidia-smi numbers them. Where it is missing, there are the cards of
--gpu-memory, and what a model holds on them is estimated.
"""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from collections.abc import Container, Mapping, Sequence
from functools import cached_property

log = logging.getLogger("slotproxy.models")

PATIENCE = 10.0  # seconds for nvidia-smi
MAX_CARDS = 64
MIB = 1 << 20


class Cards:
    """`given` are the bytes of each card by --gpu-memory; without them, nvidia-smi is asked."""

    def __init__(self, given: Sequence[int] = ()) -> None:
        self._given = tuple(given)

    @cached_property
    def totals(self) -> tuple[int, ...]:
        """The bytes of each card that models may hold; () if there are none."""
        return self._given or tuple(total for _, total in self._found)

    def held(self, pids: Container[int]) -> tuple[int, ...]:
        """The bytes that these processes hold on each card; () if nobody can tell."""
        if not self._found:
            return ()
        numbers = {uuid: number for number, (uuid, _) in enumerate(self._found)}
        held = [0] * len(numbers)
        for uuid, pid, used in _asked("compute-apps", "gpu_uuid,pid,used_gpu_memory"):
            if uuid in numbers and pid.isdecimal() and int(pid) in pids and used.isdecimal():
                held[numbers[uuid]] += int(used) * MIB
        return tuple(held)

    @cached_property
    def _found(self) -> list[tuple[str, int]]:
        """Id and bytes of each card that nvidia-smi knows."""
        if shutil.which("nvidia-smi") is None:
            return []
        rows = _asked("gpu", "uuid,index,memory.total")
        found = [(uuid, int(total) * MIB) for uuid, _, total in rows if total.isdecimal()]
        return found[:MAX_CARDS]


def _asked(what: str, fields: str) -> list[tuple[str, str, str]]:
    """The rows that nvidia-smi prints; none if it fails."""
    command = ["nvidia-smi", f"--query-{what}={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("the memory of graphics cards is not known: nvidia-smi: %s", error)
        return []
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    rows = [tuple(re.split(r",\s*", line.strip())) for line in lines]
    return [(row[0], row[1], row[2]) for row in rows if len(row) == 3]


def visible(environment: Mapping[str, str], count: int) -> list[int]:
    """The numbers of the cards that a server with this environment uses."""
    words = environment.get("CUDA_VISIBLE_DEVICES")
    if words is None:
        return list(range(count))
    listed = re.fullmatch(r"\s*-?\d{1,4}(\s*,\s*-?\d{1,4})*\s*", words)
    if not listed:  # by their ids, or none
        return list(range(count)) if words.strip() else []
    numbers: list[int] = []
    for word in words.split(","):
        if not 0 <= int(word) < count:
            break  # as CUDA: those after an invalid one do not exist
        numbers.append(int(word))
    return numbers
