"""A manual clock, and a scheduler whose leases are answered by hand."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.runtime.cancel import Cancel
from proxy.scheduling.lease import Lease, Outcome, Ticket
from proxy.scheduling.prefix import chain_of
from proxy.scheduling.scheduler import LocalScheduler
from proxy.scheduling.state import BackendFacts, SlotRequest


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def slot_request(
    prompt: str = "hello",
    boundaries: tuple[int, ...] = (),
    **fields: object,
) -> SlotRequest:
    group = str(fields.get("group", ""))
    return SlotRequest(
        model="m",
        max_tokens=16,
        chain=chain_of(prompt, boundaries or (len(prompt),), group),
        **fields,  # type: ignore[arg-type]
    )


def ended(
    slot: int, prompt: int, cached: int = 0, *, completion: int = 4, evaluating: float = 0.1
) -> Outcome:
    """The end of a whole answer."""
    return Outcome(
        end="whole",
        slot=slot,
        prompt=prompt,
        cached=cached,
        completion=completion,
        evaluating=evaluating,
    )


def granted(ticket: Lease | Ticket) -> Lease:
    """The lease of a request that has waited."""
    assert isinstance(ticket, Ticket)
    lease = ticket.wait(Cancel(), 0.0)
    assert lease is not None
    return lease


class World:
    """A scheduler with a manual clock and `backends` backends; a token is four characters."""

    def __init__(self, slots: int = 4, backends: int = 1, **options: object) -> None:
        self.clock = Clock()
        self.scheduler = LocalScheduler(self.clock, **options)  # type: ignore[arg-type]
        for number in range(backends):
            self.scheduler.update(f"b{number}", BackendFacts(model="m", slots=slots), up=True)

    def take(self, prompt: str, boundaries: tuple[int, ...] = (), **fields: object) -> Lease:
        return self.scheduler.acquire(slot_request(prompt, boundaries, **fields), Cancel())

    def waits(
        self,
        request: str | SlotRequest,
        boundaries: tuple[int, ...] = (),
        is_retry: bool = False,
        **fields: object,
    ) -> Ticket:
        """A request that has to wait."""
        if isinstance(request, str):
            request = slot_request(request, boundaries, **fields)
        entry = self.scheduler.enter(request, is_retry)
        assert isinstance(entry, Ticket)
        return entry

    def turn(self, prompt: str, boundaries: tuple[int, ...] = (), **fields: object) -> Lease:
        """Take a slot, generate an answer of four tokens, release the slot."""
        lease = self.take(prompt, boundaries, **fields)
        self.clock.now += 1
        tokens = len(prompt) // 4
        lease.release(ended(lease.slot.id, tokens, min(tokens, lease.grant.cached)))
        return lease


def check_slots(scheduler: LocalScheduler, leases: Sequence[Lease]) -> None:
    """The slot records agree with `leases`, which must be all leases that exist: no slot is lost,
    none is leased twice, and a lease of a whole backend is the only one there."""
    pools, backends = scheduler.pools, scheduler.backends
    assert scheduler.outstanding == len(leases)
    assert len({id(lease.slot) for lease in leases}) == len(leases)
    assert all(lease.slot.busy for lease in leases)
    for name, backend in backends.items():
        pool = backend.pool
        assert pool.backends[name] is backend and pools[backend.model] is pool
        mine = [lease for lease in leases if lease.grant.backend is backend]
        assert backend.in_flight == len(mine)
        assert {id(slot) for slot in backend.slots if slot.busy} == {id(x.slot) for x in mine}
        assert [slot.id for slot in backend.slots] == list(range(len(backend.slots)))
        assert backend.exclusive == any(lease.grant.whole for lease in mine)
        assert not backend.exclusive or len(mine) == 1
        assert not backend.reserved
        blocked = backend.exclusive or backend.leaving
        assert backend.grants_slots == (backend.usable and not blocked)
        free = (
            {id(slot) for slot in backend.slots if not slot.busy} if backend.grants_slots else set()
        )
        assert {id(slot) for slot, owner in pool.free.items() if owner is backend} == free
    assert {id(b) for pool in pools.values() for b in pool.free.values()} <= {
        id(backend) for backend in backends.values()
    }
    for pool in pools.values():
        cached = [slot.held for b in pool.backends.values() for slot in b.slots if slot.held]
        cached += [held for prompts in pool.kept_outside_slots.values() for held in prompts]
        indexed = {
            (link, id(held), is_busy)
            for link, holders in pool.index.items()
            for is_busy, some in zip((False, True), holders, strict=True)
            for held in some
        }
        assert indexed == {
            (link, id(held), held.slot is not None and held.slot.busy)
            for held in cached
            for link in held.chain.links
        }
