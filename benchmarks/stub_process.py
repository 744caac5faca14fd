"""The stub as a process, and as a target: measures an answer without a gateway."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tools.processes import Child

# Otherwise the stub returns the memory of each long prompt, and gets it again page by page: a
# millisecond for 400 kB, which would count as the gateway's.
MEMORY = {"MALLOC_TRIM_THRESHOLD_": "67108864", "MALLOC_TOP_PAD_": "16777216"}


class Stub:
    """A stub with so many slots of `context` tokens, which listens when it is constructed."""

    child: Child | None = None

    def __init__(
        self, folder: Path, slots: int = 1024, generation: str = "2026", context: int = 4096
    ) -> None:
        command = [sys.executable, "-u", "-m", "benchmarks.stub", "--generation", generation]
        command += ["--slots", str(slots), "--context", str(context), "--words"]
        self.process = Child(command, folder / f"stub-{generation}-{slots}.log", env=MEMORY)
        self.process.launch()
        while "listening on" not in self.process.log:
            if not self.process.alive:
                raise self.process.fail("ended while starting")
            time.sleep(0.02)
        self.upstream = self.process.log.split()[-1]
        self.url = f"{self.upstream}/v1/chat/completions"
