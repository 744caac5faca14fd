"""Measures the scheduler alone: ``python -m benchmarks.contention``.

So many requests are always on their way to so many backends. Each turn ends the oldest answer and
sends a new request, in virtual time. The figure is the CPU of one request (its arrival, decision,
first token and release, and what these do for others that wait), in microseconds.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from proxy.scheduling.lease import Lease, Outcome, Ticket
from proxy.scheduling.prefix import chain_of
from proxy.scheduling.scheduler import LocalScheduler
from proxy.scheduling.state import BackendFacts, SlotRequest

SYSTEM = "Answer as the handbook of the harbour says, in short and polite sentences. " * 110
BACKENDS = ((1, 8), (1, 64), (1, 512), (1, 4096), (8, 8), (64, 8), (1000, 4))
WAITING = (0, 1, 32, 256, 1000)
ANSWER = 0.5  # seconds
TURNS = 1500


def different(number: int) -> str:
    return f"{number} {SYSTEM}"


def shared(number: int) -> str:
    return f"{SYSTEM} {number}"


def cost(backends: int, slots: int, waiting: int, prompt: Callable[[int], str]) -> float:
    """Microseconds a request, with every slot busy and `waiting` more requests in the queue."""
    now = 0.0
    scheduler = LocalScheduler(lambda: now, max_queue=10**6, queue_timeout=1e9)
    for number in range(backends):
        scheduler.update(f"b{number}", BackendFacts(model="m", slots=slots), up=True)
    settled: deque[Ticket] = deque()
    scheduler.on_settled = settled.append
    running: deque[Lease] = deque()
    count = 0

    def send() -> None:
        nonlocal count
        text = prompt(count)
        count += 1
        chain = chain_of(text, (len(SYSTEM), len(text)))
        request = SlotRequest(model="m", max_tokens=64, chain=chain)
        entry = scheduler.enter(request)
        if isinstance(entry, Lease):
            begin(entry)

    def begin(lease: Lease) -> None:
        lease.on_first_token(-1)
        running.append(lease)

    def turn() -> None:
        nonlocal now
        now += ANSWER / (backends * slots)
        lease = running.popleft()
        outcome = Outcome(
            end="whole", slot=lease.slot.id, prompt=2000, cached=0, completion=16, evaluating=0.1
        )
        lease.release(outcome)
        while settled:
            ticket = settled.popleft()
            if ticket.lease is not None:
                begin(ticket.lease)
        send()

    for _ in range(backends * slots + waiting):
        send()
    for _ in range(200):
        turn()
    began = time.process_time()
    for _ in range(TURNS):
        turn()
    return 1e6 * (time.process_time() - began) / TURNS


def main() -> None:
    print("| backends × slots | waiting | different | shared |\n|---|---|---|---|")
    for backends, slots in BACKENDS:
        for waiting in WAITING:
            costs = [cost(backends, slots, waiting, prompt) for prompt in (different, shared)]
            row = f"| {backends} × {slots} | {waiting} | {costs[0]:.0f} | {costs[1]:.0f} |"
            print(row, flush=True)


if __name__ == "__main__":
    main()
