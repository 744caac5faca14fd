"""The first requests after a start."""

from __future__ import annotations

from collections import Counter

from proxy.runtime.cancel import Cancel
from proxy.scheduling.prefix import chain_of
from proxy.scheduling.scheduler import LocalScheduler
from proxy.scheduling.state import BackendFacts, SlotRequest


def test_fresh_backends_are_filled_evenly() -> None:
    scheduler = LocalScheduler(lambda: 0.0)
    for number in range(20):
        scheduler.update(f"b{number}", BackendFacts(model="m", slots=64), up=True)
    leases = []
    for number in range(40):
        chain = chain_of(f"question {number} " * 200)
        want = SlotRequest(model="m", chain=chain)
        leases.append(scheduler.acquire(want, Cancel()))
    assert set(Counter(lease.backend for lease in leases).values()) == {2}
