"""The measured scenarios: the requests of each, and how its figures are computed.

CPU is the time used by the gateway's processes between the first request and the last answer, so it
is valid on a busy machine, too; other times are not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, Protocol

from tools.processes import Child, ask

from .gateways import KEY
from .load import Outcome, Plan
from .measure import cpu, memory

SLOW, SIP = 16, 4096  # clients that read slowly, and the bytes they read in a tenth of a second
CROWD_PACE = 2.0  # tokens per second of each of the 5 000 streams
HISTORY = 198  # messages of a long conversation between the system's and the first question


class Target(Protocol):
    """A running gateway, or the stub itself (then `child` is None)."""

    url: str

    @property
    def child(self) -> Child | None: ...


class Load:
    """The load generator's process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, plan: Plan) -> Outcome:
        self.begin(plan)
        answers = self._process.stdout
        assert answers is not None
        line = answers.readline()
        if not line:
            raise RuntimeError("the load generator died")
        return Outcome(**json.loads(line))

    def begin(self, plan: Plan) -> None:
        """Run a plan in the background, without an outcome."""
        pipe = self._process.stdin
        assert pipe is not None
        pipe.write(json.dumps(dataclasses.asdict(plan)) + "\n")
        pipe.flush()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died, so its output is lost anyway
            self._process.stdin.close()
        self._process.wait()


@dataclass
class Bench:
    """`scale` shortens every part: 1 is the full length."""

    load: Load
    stub: str
    scale: float = 1.0

    def pace(self, rate: float) -> None:
        status, _ = ask(f"{self.stub}/pace/{rate:g}")
        assert status == 200, "the stub does not listen"

    def _run(self, target: Target, **how: Any) -> tuple[Outcome, float]:
        """Run a plan; return the outcome and the CPU seconds used."""
        before = cpu(target.child.pid) if target.child else 0.0
        outcome = self.load.run(Plan(target.url, key=KEY, **how))
        used = cpu(target.child.pid) - before if target.child else 0.0
        return outcome, used

    def warm(self, target: Target) -> None:
        self.pace(0)
        self._run(target, tokens=16, stream=True, at_once=16, seconds=0.5 * self.scale)
        self._run(target, tokens=16, stream=False, at_once=32, seconds=0.5 * self.scale)

    def whole(self, target: Target) -> dict[str, float]:
        """A: complete answers of 16 tokens, 32 at the same time."""
        return self._whole(target, 16)

    def longer(self, target: Target) -> dict[str, float]:
        """E: complete answers of 64 tokens, 32 at the same time."""
        return self._whole(target, 64)

    def _whole(self, target: Target, tokens: int) -> dict[str, float]:
        self.pace(0)
        out, used = self._run(target, tokens=tokens, stream=False, at_once=32, seconds=self.scale)
        return {
            "us_a_request": 1e6 * used / max(1, out.complete),
            "requests_a_second": out.complete / out.seconds,
            **_lost(out),
        }

    def fast(self, target: Target) -> dict[str, float]:
        """B: streams of 64 tokens at full speed, 16 at the same time."""
        self.pace(0)
        out, used = self._run(target, tokens=64, stream=True, at_once=16, seconds=self.scale)
        return {
            "us_a_token": 1e6 * used / max(1, out.tokens),
            "tokens_a_second": out.tokens / out.seconds,
            **_lost(out),
        }

    def paced(self, target: Target) -> dict[str, float]:
        """C: 256 concurrent streams, 20 tokens per second each."""
        return self._streams(target, 256, 20.0, 10.0)

    def many(self, target: Target) -> dict[str, float]:
        """D: 1 000 concurrent streams, 10 tokens per second each."""
        return self._streams(target, 1000, 10.0, 12.0)

    def _streams(self, target: Target, at_once: int, rate: float, last: float) -> dict[str, float]:
        """Run paced streams; all start within a quarter of a stream's duration."""
        count = max(4, round(at_once * min(1.0, 4 * self.scale)))
        seconds = max(1.0, last * min(1.0, self.scale * 2))
        self.pace(rate)
        out, used = self._run(
            target,
            tokens=round(rate * seconds),
            stream=True,
            at_once=count,
            requests=count,
            ramp=4 * count / seconds,
        )
        return {
            "us_a_token": 1e6 * used / max(1, out.tokens),
            "relay_p50_ms": out.relay[0] / 1000 if out.relay else 0.0,
            "relay_p99_ms": out.relay[2] / 1000 if out.relay else 0.0,
            "complete": 100 * out.complete / count,
            "tokens_lost": round(rate * seconds) * count - out.tokens,
            "memory_mb": memory(target.child.pid) if target.child else 0.0,
        }

    def slow(self, target: Target) -> dict[str, float]:
        """F: 64 paced streams, while 16 clients read streams of 4 000 tokens at 40 kB a second."""
        self.pace(0)
        slow = Load()
        try:
            slow.begin(Plan(target.url, 4000, True, at_once=SLOW, requests=SLOW, key=KEY, sip=SIP))
            time.sleep(1.0)  # until the buffers between them and the stub are full
            figures = self._streams(target, 64, 20.0, 5.0)
        finally:
            slow.kill()
        return figures

    def long(self, target: Target) -> dict[str, float]:
        """G: conversations of 200 messages and 400 kB, one request at a time: the first turn of
        each, and the following turns of one, each of which adds two messages."""
        self.pace(0)
        count, lost = max(2, round(20 * self.scale)), 0
        figures: dict[str, float] = {}
        for name, grows in (("first", False), ("turn", True)):
            requests = 2 * count if grows else count
            # The time makes them differ from those of other slices.
            system = f"{time.monotonic_ns()} You are a helpful assistant."
            how: dict[str, Any] = {"tokens": 1, "stream": False, "system": system}
            how |= {"history": HISTORY, "grows": grows}
            if grows:
                self._run(target, requests=1, **how)
            out, used = self._run(target, requests=requests, variants=requests, **how)
            figures[f"{name}_ms"] = out.latency[0] / 1000 if out.latency else 0.0
            figures[f"{name}_cpu_ms"] = 1000 * used / requests
            lost += out.failed
        return {**figures, "complete": 100 * (1 - lost / (3 * count))}

    def crowd(self, target: Target) -> dict[str, float]:
        """H: 5 000 concurrent streams, two tokens per second each."""
        return self._streams(target, 5000, CROWD_PACE, 20.0)

    def alone(self, target: Target) -> dict[str, float]:
        """One request at a time: a complete answer of one token; then a stream's first token."""
        self.pace(0)
        count = max(20, round(80 * self.scale))
        whole, _ = self._run(target, tokens=1, stream=False, requests=count)
        stream, _ = self._run(target, tokens=2, stream=True, requests=count)
        return {
            "answer_ms": whole.latency[0] / 1000 if whole.latency else 0.0,
            "first_token_ms": stream.first[0] / 1000 if stream.first else 0.0,
            "lost": whole.failed + stream.failed,
        }

    def idle(self, target: Target) -> dict[str, float]:
        """CPU in percent of a core without requests, and memory."""
        assert target.child is not None
        before, seconds = cpu(target.child.pid), 10 * self.scale
        time.sleep(seconds)
        used = cpu(target.child.pid) - before
        return {"percent": 100 * used / seconds, "memory_mb": memory(target.child.pid)}


def _lost(out: Outcome) -> dict[str, float]:
    return {"lost": out.failed, "complete": 100 * out.complete / max(1, out.complete + out.failed)}
