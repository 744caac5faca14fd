"""A clock by hand, a gateway's side of the scheduler, and a server of slots that keeps the rules of
the old one."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.cancel import Cancel
from proxy.core.task import Task
from proxy.scheduling.lease import Lease, Outcome
from proxy.scheduling.scheduler import Scheduler
from proxy.scheduling.state import Want


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def want(
    scheduler: Scheduler, prompt: str = "hello", boundaries: tuple[int, ...] = (), **fields: object
) -> Want:
    group = str(fields.get("group", ""))
    return Want(
        "m",
        Task(prompt=prompt, max_tokens=16),
        chain=scheduler.chain(prompt, boundaries or (len(prompt),), group),
        **fields,  # type: ignore[arg-type]
    )


class World:
    """A scheduler whose every lease is answered at once, in tokens of four characters."""

    def __init__(self, slots: int = 4, backends: int = 1, **options: object) -> None:
        self.clock = Clock()
        self.scheduler = Scheduler(self.clock, **options)  # type: ignore[arg-type]
        for number in range(backends):
            self.scheduler.update(f"b{number}", "m", up=True, slots=slots)

    def take(self, prompt: str, boundaries: tuple[int, ...] = (), **fields: object) -> Lease:
        return self.scheduler.acquire(want(self.scheduler, prompt, boundaries, **fields), Cancel())

    def turn(self, prompt: str, boundaries: tuple[int, ...] = (), **fields: object) -> Lease:
        """Take a slot, answer, give it back."""
        lease = self.take(prompt, boundaries, **fields)
        self.clock.now += 1
        tokens = len(prompt) // 4
        lease.release(
            Outcome("whole", lease.slot.id, tokens, min(tokens, lease.grant.cached), 4, 0.1)
        )
        return lease


def checked_slots(scheduler: Scheduler, leases: Sequence[Lease]) -> None:
    """The records of slots are as these leases, which are all that are out, say: none is lost,
    none was given twice, and who has a whole backend has it alone."""
    pools, backends, *_ = scheduler.records
    assert scheduler.outstanding == len(leases)
    assert len({id(lease.slot) for lease in leases}) == len(leases)
    assert all(lease.slot.busy for lease in leases)
    for name, (pool, backend) in backends.items():
        assert pool.backends[name] is backend and pools[backend.model] is pool
        mine = [lease for lease in leases if lease.grant.backend is backend]
        assert backend.in_flight == len(mine)
        assert {id(slot) for slot in backend.slots if slot.busy} == {id(x.slot) for x in mine}
        assert [slot.id for slot in backend.slots] == list(range(len(backend.slots)))
        assert backend.exclusive == any(lease.grant.whole for lease in mine)
        assert not backend.exclusive or len(mine) == 1
        assert not backend.reserved
        free = {id(slot) for slot in backend.slots if not slot.busy} if backend.lends else set()
        assert {id(slot) for slot, owner in pool.free.items() if owner is backend} == free
    assert {id(b) for pool in pools.values() for b in pool.free.values()} <= {
        id(backend) for _, backend in backends.values()
    }
