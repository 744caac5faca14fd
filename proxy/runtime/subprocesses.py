"""Starts and ends processes; most are helpers that answer questions, as lines of JSON.

Foreign code (an operator's function, an MCP client, a search library with a network stack of its
own) runs there: it cannot block the gateway's loop, and it can be ended in the middle of its work,
which a thread cannot. A child does one thing at a time. An idle child is reused; an abandoned one
is ended and never reused.

`serve` is the other side, in the child: it passes each question to a function and writes the
result. A child ends when its standard input does, so none outlives the gateway.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec

from ..errors import UpstreamFault, UpstreamTimeout
from .cancel import Cancel
from .confinement import command, environment
from .keep_alive import WhileNeeded

PATIENCE = 8.0  # seconds a child gets to finish before it is killed
KILLED = 5.0  # seconds for the system to end a killed process
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds between two starts after failures
DOUBLINGS = 10  # of the pause, at most: more than it takes to be the longest
HOPELESS = 3  # failures in a row
MOST, MOST_IDLE = 8, 2
LAST = "last"  # key of an answer: the child ends after it
LONGEST = 4 << 20  # bytes of one answer
UNREAD = 2  # unexpected answers after which a child is no longer read
TICK = 0.1  # seconds between two checks for a cancellation while waiting for a free child
LEASH = Path(__file__).with_name("leash.py")


def start(
    module: str, *args: str, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """Start a helper: `python -P -m module args`, with `options` of Popen. It has a session of its
    own: no terminal signal reaches it, and all of it can be killed. Raises OSError."""
    env = environment() if env is None else env
    return subprocess.Popen([*command(module), *args], env=env, start_new_session=True, **options)


def start_program(
    words: Sequence[str], env: Mapping[str, str], **options: Any
) -> subprocess.Popen[bytes]:
    """Start a program of the operator's, with `options` of Popen and `env` added to the environment
    without our settings. It has a session of its own. On Linux, the kernel kills it when the thread
    that called this ends, so that none outlives the gateway. Raises OSError, but not for a program
    that does not exist: that one prints the reason and exits with 127."""
    if sys.platform == "linux":
        words = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), *words]
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLOTPROXY_")}
    return subprocess.Popen(list(words), env={**own, **env}, start_new_session=True, **options)


class Process:
    """A process that was started with a session of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def exit(self) -> str:
        """How it ended, "" if it has not."""
        code = self._process.poll()
        if code is None:
            return ""
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def kill(self, number: int = 0) -> None:
        """Send a signal, by default SIGKILL, to all of its group. Does nothing if they ended."""
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                self._process.kill()
            else:
                os.killpg(self.pid, number or signal.SIGKILL)

    def close(self, patience: float = 0.0) -> None:
        """Wait so many seconds for its end, then kill it, and the children that it left behind."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(KILLED)


class Restarts:
    """When a process that failed may be started again: at once after its first failure, and after a
    pause that grows with each further one in a row."""

    def __init__(self) -> None:
        self.failures = 0  # in a row
        self._at = 0.0

    @property
    def pause(self) -> float:
        """The seconds until it may be started, 0 if it may be now."""
        return max(0.0, self._at - time.monotonic())

    @property
    def hopeless(self) -> bool:
        """Whether requests are refused rather than kept waiting."""
        return self.failures >= HOPELESS

    def failed(self) -> None:
        self.failures += 1
        if self.failures > 1:
            pause = FIRST_PAUSE * 2.0 ** min(self.failures - 2, DOUBLINGS)
            self._at = time.monotonic() + min(LONGEST_PAUSE, pause)


class Helper(Process):
    """A helper with a pipe to its standard input and one from its output. Its errors go nowhere."""

    def __init__(self, module: str, env: Mapping[str, str] | None = None) -> None:
        pipe = subprocess.PIPE
        process = start(module, env=env, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        super().__init__(process)
        assert process.stdin is not None
        assert process.stdout is not None
        self.input, self.output = process.stdin, process.stdout

    def wait(self) -> int:
        """Wait for its end. Returns the exit code."""
        return self._process.wait()

    def close(self, patience: float = 0.0) -> None:
        super().close(patience)
        for pipe in (self.input, self.output):
            with contextlib.suppress(OSError, ValueError):
                pipe.close()


class Child(Helper):
    """A helper that answers questions, and gets `setup` first. `whole`: it inherits the environment
    without our settings."""

    def __init__(self, module: str, setup: Any, *, whole: bool = False) -> None:
        super().__init__(module, environment(whole=whole))
        self.answers: queue.Queue[bytes | None] = queue.Queue()
        threading.Thread(target=self._read, name="child", daemon=True).start()
        self.tell(setup)

    def tell(self, value: Any) -> None:
        """Send a value. Raises UpstreamFault if the child has ended."""
        try:
            self.input.write(msgspec.json.encode(value) + b"\n")
            self.input.flush()
        except (OSError, ValueError):
            raise UpstreamFault("the child process exited") from None

    def end(self) -> None:
        """Begin to end the child, which takes at most PATIENCE. Does not block."""
        with contextlib.suppress(OSError):
            self._process.terminate()
        self.answers.put(None)
        threading.Thread(target=self.close, args=(PATIENCE,), name="child", daemon=True).start()

    def _read(self) -> None:
        try:
            while line := self.output.readline(LONGEST):
                if not line.endswith(b"\n") or self.answers.qsize() >= UNREAD:
                    break
                self.answers.put(line)
        except (OSError, ValueError):
            pass  # it was ended
        finally:
            self.answers.put(None)


class Children:
    """Helpers of one kind, at most `most`, started when needed. `whole`: the operator's own code,
    which may be configured in the environment; others get a small one. `start`: seconds that the
    first question of a helper may take longer. `unload`: seconds without a question after which
    idle helpers end; 0: never."""

    def __init__(
        self,
        module: str,
        setup: Any = None,
        *,
        whole: bool = False,
        most: int = MOST,
        start: float = 0.0,
        unload: float = 0.0,
    ) -> None:
        self._module = module
        self._start = start
        self._unload = unload
        self._used = 0.0
        self._whole = whole
        self._setup = setup
        self._lock = threading.Lock()
        self._room = threading.Semaphore(most)
        self._idle: list[Child] = []
        self._closed = False
        self._unloading = WhileNeeded(
            "idle children", unload / 2, lambda: self._idle, self._end_unused
        )

    def ask(self, question: Any, cancel: Cancel, seconds: float) -> Any:
        """The answer to a question. The child is ended on timeout and cancellation.

        Raises Cancelled, UpstreamTimeout, UpstreamFault (it died; its standard error is dropped).
        """
        end = time.monotonic() + seconds
        while not self._room.acquire(timeout=max(0.0, min(TICK, end - time.monotonic()))):
            cancel.check()
            if time.monotonic() >= end:
                raise UpstreamTimeout("too many child processes are busy")
        try:
            return self._ask(question, cancel, seconds, end)
        finally:
            self._room.release()

    def _ask(self, question: Any, cancel: Cancel, seconds: float, end: float) -> Any:
        left = end - time.monotonic()
        child = self._idle_child()
        if child is None:
            seconds += self._start
            left += self._start
            try:
                child = Child(self._module, self._setup, whole=self._whole)
            except OSError as error:
                raise UpstreamFault(
                    "a child process could not be started", detail=str(error)
                ) from None
        cancel.add(child.end)
        try:
            child.tell(question)
            line = child.answers.get(timeout=max(0.0, left))
            if line is None:
                raise UpstreamFault("the child process exited without a result")
            answer = msgspec.json.decode(line)
        except BaseException as error:
            if cancel.cancelled:
                raise cancel.error() from None
            child.end()
            if isinstance(error, queue.Empty):
                raise UpstreamTimeout(f"timed out after {seconds:.3g} seconds") from None
            raise
        finally:
            cancel.remove(child.end)
        with self._lock:
            keep = (
                LAST not in answer
                and not self._closed
                and not cancel.cancelled
                and len(self._idle) < MOST_IDLE
            )
            if keep:
                self._idle.append(child)
                self._used = time.monotonic()
                if self._unload:
                    self._unloading.start()
        if not keep:
            child.end()
        return answer

    def _idle_child(self) -> Child | None:
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.alive and child.answers.empty():  # not one with an unexpected answer
                    return child
                child.end()
        return None

    def _end_unused(self) -> None:
        """End the idle children if the last question was long enough ago. The lock: a child is
        either taken for a question or ended."""
        with self._lock:
            if time.monotonic() - self._used < self._unload:
                return
            unused, self._idle = self._idle, []
        for child in unused:
            child.end()

    def close(self) -> None:
        """End the idle children; busy ones end with their question."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for child in idle:
            child.end()


def channel() -> tuple[IO[bytes], IO[bytes]]:
    """In a child: the streams of questions and answers. Other output goes to standard error, so
    that it is not mistaken for an answer."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return sys.stdin.buffer, answers


def end_with_input(source: IO[bytes]) -> None:
    """In a child that has read its input: end it when that is closed, as it is with the gateway."""

    def wait() -> None:
        os.read(source.fileno(), 1)
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def serve(
    begin: Callable[[Any], Callable[[Any], Any]], after: Callable[[], object] = lambda: None
) -> None:
    """In a child: answer questions. `begin` gets the setup and returns the function that answers
    them; `after` is called when an answer is out. A thread reads standard input: its end, the
    gateway's, ends the child at any moment.
    """
    questions, answers = channel()
    ready: queue.Queue[Any] = queue.Queue()

    def read() -> None:
        try:
            for line in questions:
                ready.put(msgspec.json.decode(line))
        finally:
            os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    answer = begin(ready.get())
    while True:
        answers.write(msgspec.json.encode(answer(ready.get())) + b"\n")
        after()
