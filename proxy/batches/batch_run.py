"""One turn of one batch: checks its file, asks its lines, and writes its output files.

A line is asked again if it had to make way for other requests, later each time; if its model is not
available; and some times after other faults of a server. All other answers are its result, and so
is every answer for which tools have run. When the batch is cancelled or expired, or its key
refused, the lines without a result get an error.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from werkzeug.test import create_environ, run_wsgi_app

from ..apis.batches import objects as batches
from ..apis.batches.objects import LineError
from ..core.usage import Usage
from ..errors import (
    Cancelled,
    GatewayStopping,
    NoIdleSlot,
    NotFound,
    QuotaExceeded,
    StoreUnavailable,
    Unauthorized,
)
from ..runtime.cancel import Cancel, client_left
from ..runtime.keep_alive import KeepAlive
from ..store.outage import retry_while_unavailable
from ..store.records import UNCHECKED, RequestBatch, Result, Tokens, new_id
from ..web.auth import BATCH, SIGNED_IN
from ..web.body import JSON
from ..web.disconnect import CANCEL
from ..web.observability import Record
from ..web.observability import new_id as new_request_id
from .input_file import InputFile, Line

if TYPE_CHECKING:  # it imports SQLAlchemy
    from _typeshed.wsgi import StartResponse

    from ..store.request_batches import RequestBatches

WSGI = Callable[[dict[str, Any], "StartResponse"], Iterable[bytes]]
AGENT = "slotproxy-batch"


class LineResponse(NamedTuple):
    """`retry_after`: seconds, None if unknown. `outcome`: how the gateway's own part ended, such as
    the code of an error, "" if another server's answer was passed on. `has_effects`: tools have
    run, which another try would repeat. `usage`: what the gateway counted."""

    status: int
    request_id: str
    body: bytes
    retry_after: float | None = None
    outcome: str = ""
    has_effects: bool = False
    usage: Usage = Usage()


Ask = Callable[[RequestBatch, bytes, Cancel], LineResponse]
"""Answers a line of a batch, whose body is this JSON."""


def make_sender(app: WSGI, prefix: str) -> Ask:
    """Returns the function that asks `app`, whose routes have this prefix."""

    def ask(batch: RequestBatch, body: bytes, cancel: Cancel) -> LineResponse:
        request_id = new_request_id()
        environ = create_environ(
            prefix + batch.endpoint,
            method="POST",
            data=body,
            content_type=JSON,
            headers={"X-Request-ID": request_id, "User-Agent": AGENT},
            environ_base={"REMOTE_ADDR": batch.peer},
            environ_overrides={SIGNED_IN: batch.owner, BATCH: True, CANCEL: cancel},
        )
        served: dict[str, Any] = {}  # the environment that the app gets, which is a copy

        def answer_line(environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
            nonlocal served
            served = environ
            return app(environ, start)

        parts, status, headers = run_wsgi_app(answer_line, environ, buffered=True)
        after = headers.get("Retry-After", "")
        seconds = float(after) if after.isdecimal() else None
        code, answer, info = int(status[:3]), b"".join(parts), Record.of(served).info
        return LineResponse(
            code, request_id, answer, seconds, info.outcome, info.has_effects, info.usage
        )

    return ask


Room = Callable[[str, str], int | None]
"""How many lines for this endpoint and model may be under way now; None if the model is unknown."""

TURN = 60.0  # seconds after which a batch makes way for one that waits
BEAT = 2.0  # seconds between two heartbeats
TICK = 0.05  # seconds between two looks for idle slots
# Seconds until a line is asked again that had to make way; doubled each time.
FIRST_AGAIN, LAST_AGAIN, DOUBLINGS = 1.0, 300.0, 9
MOST = 64  # lines asked at a time
TRIES = 3  # of a line that a server fails to answer
FAULTS = (429, 500, 502, 503, 504)
LONGEST_PAUSE = 15.0  # seconds until a model that is not available is asked again
ENDING = 5.0  # seconds that an end waits for what is under way
AT_ONCE = 500  # results without an answer that are stored together


Finished = tuple[int, Line, LineResponse | None]
"""The number of a line, the line, and its answer; None for a defect."""


# Why the rest of the lines is not asked: a code and a message.
EXPIRED = "batch_expired", "the batch expired before this request was answered"
CANCELLED = "batch_cancelled", "the batch was cancelled before this request was answered"


class BatchRun:
    """One turn of a batch. Calls may raise StoreUnavailable, and NotFound if it is lost."""

    def __init__(self, runner: BatchRunner, batch: RequestBatch) -> None:
        self._runner = runner
        self._store = runner.store
        self._batch = batch
        self._running: dict[int, Cancel] = {}
        self._finished: queue.SimpleQueue[Finished] = queue.SimpleQueue()
        self._waiting: list[tuple[float, int]] = []  # a heap of lines, by the time to ask them
        self._next: tuple[int, Line] | None = None  # the first that waits, if it was read
        self._tries: Counter[int] = Counter()
        self._preemptions: Counter[int] = Counter()
        self._pause = 0.0  # until which time nothing is asked
        self._beaten = -math.inf
        self._stop: tuple[str, str] | None = None
        self._spare = 0.0  # bytes that results may have until the quota is checked again

    def run(self) -> None:
        try:
            if self._batch.status == "finalizing" or self._has_all_results():
                self._finish()
        except (LineError, QuotaExceeded) as error:
            self._fail(error)

    def _has_all_results(self) -> bool:
        """Get the results of all lines; False if the batch failed, or another turn continues."""
        batch, lines = self._batch, self._indexed()
        if lines is None or (batch.status == UNCHECKED and self._store.others_wait()):
            return False
        done = set(self._store.done(batch.id))
        self._waiting = [(0.0, number) for number in range(len(lines)) if number not in done]
        self._check_quota(0)
        if not self._ask_all(lines):
            return False
        if self._stop is not None:
            self._give_up(lines, [number for _, number in self._waiting])
        return True

    def stop(self) -> None:
        """End what is under way; it is asked again, by the next process if this one stops."""
        for cancel in tuple(self._running.values()):
            cancel.cancel(GatewayStopping if self._runner.over.is_set() else client_left)

    def end(self) -> None:
        """Stop, and wait for it: what answers a line is closed after the batches."""
        self.stop()
        until = time.monotonic() + ENDING
        while self._running and (left := until - time.monotonic()) > 0:
            with suppress(queue.Empty):
                del self._running[self._finished.get(timeout=left)[0]]

    # the input file

    def _indexed(self) -> InputFile | None:
        """Check the file; None if it is not valid, or the batch was cancelled meanwhile."""
        batch = self._batch
        piece = partial(self._store.piece, batch.file_id)
        file = InputFile(piece, self._store.piece_size, batch.endpoint, self._runner.longest)
        try:
            file.check(self._beat)
            errors = file.errors
        except LineError as error:
            errors = [error.at(None)]
        if errors:
            self._close("failed", errors=errors)
            return None
        if not batch.total:  # also if it was cancelled before
            self._store.begin(batch.id, len(file), file.model[:1024], time.time())
        return file

    # asking

    def _ask_all(self, lines: InputFile) -> bool:
        """Ask the lines that wait. Returns False if another turn continues."""
        looks = time.time() + TURN  # for batches that wait
        makes_way = False
        while True:
            self._beat()
            if self._stop is None and time.time() >= self._batch.times["expires"]:
                self._stop = EXPIRED
            if self._stop is not None or self._runner.over.is_set():
                self.stop()
            elif not makes_way:
                self._ask_some(lines)
            results = self._taken()
            if results:
                self._keep(results)
            if not self._running:
                if self._runner.over.is_set():
                    return False
                if self._stop is not None or not self._waiting:
                    return True
                if makes_way:
                    return False
            if not makes_way and time.time() > looks:
                looks = time.time() + BEAT
                makes_way = self._store.others_wait()

    def _ask_some(self, lines: InputFile) -> None:
        while self._waiting and len(self._running) < MOST:
            now = time.time()
            at, number = self._waiting[0]
            if now < max(at, self._pause):
                return
            if self._next is None or self._next[0] != number:
                self._next = number, lines.read(number)
            line = self._next[1]
            room = self._runner.room(self._batch.endpoint, line.model)
            if len(self._running) >= (1 if room is None else room):
                return
            heappop(self._waiting)
            self._begin(number, line)

    def _begin(self, number: int, line: Line) -> None:
        cancel = self._running[number] = Cancel()

        def work() -> None:
            answered = None
            try:
                answered = self._runner.ask(self._batch, line.body, cancel)
            finally:
                self._finished.put((number, line, answered))

        threading.Thread(target=work, name="batch-line", daemon=True).start()

    def _taken(self) -> list[Result]:
        """The results of the lines that are finished, after a moment at most."""
        results: list[Result] = []
        wait = True
        while True:
            try:
                number, line, answered = self._finished.get(wait, TICK if wait else None)
            except queue.Empty:
                return results
            wait = False
            del self._running[number]
            if answered is None:
                body = msgspec.json.encode({"error": {"message": "internal error"}})
                answered = LineResponse(500, new_id(""), body)
            if self._is_final(number, answered):
                data = batches.answered(
                    answered.request_id, line.custom_id, answered.status, answered.body
                )
                failed, usage = answered.status != 200, answered.usage
                tokens = Tokens(usage.prompt, usage.cached, usage.completion, usage.reasoning)
                results.append(Result(number, failed, data, Tokens() if failed else tokens))

    def _is_final(self, number: int, answered: LineResponse) -> bool:
        """Whether an answer is the line's result. Otherwise it waits again."""
        status, now = answered.status, time.time()
        if answered.has_effects:
            return True
        if status == Cancelled.status or answered.outcome == NoIdleSlot.code:
            again = min(LAST_AGAIN, FIRST_AGAIN * 2.0 ** min(self._preemptions[number], DOUBLINGS))
            self._preemptions[number] += 1
            heappush(self._waiting, (now + again, number))
            return False
        if answered.outcome == Unauthorized.code:
            self._stop = self._stop or _error_of(answered)
        elif status in (429, 503) and answered.retry_after is not None:
            self._pause = now + min(LONGEST_PAUSE, answered.retry_after)
        elif status in FAULTS and self._tries[number] + 1 < TRIES:
            self._tries[number] += 1
        else:
            self._tries.pop(number, None)
            return True
        heappush(self._waiting, (now, number))
        return False

    def _beat(self) -> None:
        now = time.time()
        if now - self._beaten < BEAT:
            return
        status = self._store.beat(self._batch.id, now)
        if not status:
            raise _lost()
        self._beaten = now
        if status == "cancelling":
            self._stop = CANCELLED

    # the end

    def _give_up(self, lines: InputFile, numbers: Iterable[int]) -> None:
        """Give these lines an error as their result."""
        assert self._stop is not None, "there is a reason"
        results: list[Result] = []
        for number in sorted(numbers):
            custom_id = lines.read(number).custom_id
            data = batches.unanswered(new_id(""), custom_id, *self._stop)
            results.append(Result(number, True, data))
            if len(results) == AT_ONCE:
                self._keep(results)
                results = []
                self._beat()
        if results:
            self._keep(results)

    def _keep(self, results: list[Result]) -> None:
        """Store results, which exist nowhere else: wait for the store. Raises QuotaExceeded."""
        size = sum(len(result.data) for result in results)
        if size > self._spare:
            self._check_quota(size)
        self._spare -= size
        add = partial(self._store.add_results, self._batch.id, results)
        if not retry_while_unavailable(add):
            raise _lost()

    def _finish(self) -> None:
        """Write the files, once all lines have results."""
        times = self._batch.times
        if self._stop is CANCELLED or "cancelling" in times:
            last = "cancelled"
        elif self._stop is EXPIRED or "expired" in times:
            last = "expired"
        else:
            last = "completed"
        if last != "cancelled":
            self._close("finalizing", *(("expired",) if last == "expired" else ()))
        self._write_files()
        self._close(last)

    def _check_quota(self, size: int) -> None:
        check = partial(self._store.check_quota, self._batch.owner, size)
        # Half of the rest, as the owner may store other things meanwhile.
        self._spare = size + retry_while_unavailable(check) / 2

    def _fail(self, error: LineError | QuotaExceeded) -> None:
        if isinstance(error, QuotaExceeded):
            error = LineError(error.code, error.message)
        with suppress(QuotaExceeded):
            self._write_files()
        self._close("failed", errors=[error.at(None)])

    def _write_files(self) -> None:
        now = time.time()
        for failed in (False, True):
            self._store.write_file(self._batch, failed=failed, now=now)

    def _close(self, status: str, *also: str, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        """Record this status, and the time of it and of `also`."""
        times = dict.fromkeys((status, *also), time.time())
        if not self._store.close(self._batch.id, status, times, errors):
            raise _lost()


def _error_of(answered: LineResponse) -> tuple[str, str]:
    try:
        error = msgspec.json.decode(answered.body)["error"]
        return str(error["code"]), str(error["message"])
    except (msgspec.DecodeError, LookupError, TypeError):
        return "unauthorized", "the API key of the batch is no longer accepted"


def _lost() -> NotFound:
    return NotFound("the batch was deleted, or another process runs it")


LOOK = 5.0  # seconds between two looks for batches that other processes left


class BatchRunner:
    """Runs batches in a thread, one at a time, for `TURN` seconds if others wait. A line that was
    under way when a process was killed is asked again.

    `wake` announces a new or cancelled batch; the first call starts the thread. `close` gives
    the batch back, and the next process continues it."""

    ask: Ask  # answers lines; set before the first request

    def __init__(self, store: RequestBatches, room: Room, longest: int) -> None:
        """`room` tells how many lines could be asked now; `longest`: bytes of a line."""
        self.store = store
        self.room = room
        self.longest = longest
        self._woken = threading.Event()
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        with self._lock:
            if self._thread is None and not self.over.is_set():
                self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
                self._thread.start()
        self._woken.set()

    def leave(self) -> None:
        """End the lines under way, and give the batch back. Does not wait."""
        self.over.set()
        self._woken.set()

    def close(self) -> None:
        self.leave()
        if self._thread is not None:
            self._thread.join(timeout=ENDING)

    def _run(self) -> None:
        running = KeepAlive("running batches", lambda seconds: self.over.wait(seconds))
        while not self.over.is_set():
            running.turn(self._turn)

    def _turn(self) -> None:
        self._woken.clear()
        try:
            if self.run_one():
                return
            self.store.drop_results()
        except StoreUnavailable:
            pass  # try again later
        self._woken.wait(LOOK)

    def run_one(self) -> bool:
        """Run the next batch for its turn. False if there is none. Raises StoreUnavailable."""
        batch = self.store.claim(time.time())
        if batch is None:
            return False
        run = BatchRun(self, batch)
        try:
            with suppress(NotFound):  # deleted, or taken over by another process
                run.run()
        finally:
            run.end()
            with suppress(StoreUnavailable):
                self.store.release(batch.id, time.time())
        return True
