"""History of the last hour: counts of finished requests in a ring of samples, and what slots kept.
A sample is created when a request falls into it, so an idle gateway does no work.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, groupby
from typing import get_args

from msgspec import Struct

from ...core.events import FinishReason
from ...errors import Cancelled, RequestCancelled
from ...gateway import Info
from ...store.measures import ERROR, EVICTION, Counts, bucket_of

OTHER = "other"  # requests that match no route


class Finished(Struct, frozen=True, gc=False):
    """A finished request: the `second` at which it ended, and how many seconds it `took`."""

    second: float
    route: str
    status: int
    took: float
    info: Info
    asks_model: bool = True
    key: str = ""


STEP = 10  # seconds per sample
SAMPLES = 360
SPAN = 600  # seconds of counts that are stored together
MOST_KINDS = 64  # distinct error codes
LONGEST = 64  # characters of one
MOST_UNSTORED = 16384  # counts that wait to be stored
MOST_HELD = 16384  # slots whose content is remembered
MOST_TENURES = 4096  # contents that are not in their slots any more
WELL = frozenset(get_args(FinishReason)) | {"", "cancelled", Cancelled.code, RequestCancelled.code}


class Tenure(Struct, kw_only=True):
    """What a slot kept `since` its first request began, `until` its last one ended: the
    conversation of a key. Times are seconds since 1970. It `ended` when another one took the slot,
    because of `why`; 0 while it is there."""

    backend: str
    slot: int
    key: str
    conversation: str  # the digest of its last turn, as in `SlotView`, "" if it is not known
    since: float
    until: float
    requests: int = 1
    prompt: int  # tokens of the last prompt
    cached: int = 0  # tokens, of all requests
    ended: float = 0.0
    why: str = ""


Change = tuple[float, float, str] | float | None


class Contents:
    """What slots keep, as finished requests show it: a request that found nine tenths of its
    prompt, or of the one before, in the cache continues it, and any other replaces it. A request of
    several choices uses several slots, of which it names one, so it counts for none."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, int], Tenure] = {}
        self._past: deque[Tenure] = deque(maxlen=MOST_TENURES)

    def add(self, row: Finished) -> Change:
        """The gap before a content was used again, or the lifetime and the idle time of one that
        was replaced, and why. None if there is nothing to say."""
        info, usage = row.info, row.info.usage
        if info.slot < 0 or info.choices > 1 or not (info.placed and usage.prompt):
            return None
        place, began = (info.backend, info.slot), row.second - row.took + info.placed
        held = self._held.pop(place, None)
        prompt = info.placement.request.chain if info.placement is not None else None
        link = prompt.links[prompt.turn - 1].hex() if prompt is not None and prompt.links else ""
        idle = max(0.0, began - held.until) if held is not None else 0.0
        if held is not None and 10 * usage.cached >= 9 * min(held.prompt, usage.prompt):
            held.until, held.prompt, held.conversation = row.second, usage.prompt, link[:12]
            held.requests += 1
            held.cached += usage.cached
            self._held[place] = held  # the last one used is the last
            return idle
        self._held[place] = Tenure(
            backend=info.backend,
            slot=info.slot,
            key=row.key,
            conversation=link[:12],
            since=began,
            until=row.second,
            prompt=usage.prompt,
            cached=usage.cached,
        )
        if held is None:
            if len(self._held) > MOST_HELD:
                del self._held[next(iter(self._held))]
            return None
        held.ended, held.why = max(began, held.until), _why(held, row)
        self._past.append(held)
        return max(0.0, began - held.since), idle, held.why

    def tenures(self, since: float) -> Iterator[Tenure]:
        """Those that were in their slots at that time or later."""
        both = chain(self._past, self._held.values())
        return (tenure for tenure in both if not tenure.ended or tenure.ended >= since)


def _why(held: Tenure, row: Finished) -> str:
    """Why this request has replaced what was in its slot."""
    placed = row.info.placement
    if placed is not None and not placed.replaced:  # nothing of another conversation was there
        if held.key != row.key or not placed.turns:
            return "lost"
        loss = placed.loss.why if placed.loss is not None else "evicted"
        return loss if loss != "evicted" else "changed"
    if placed is not None and (placed.saves or placed.keeps):
        return "kept"
    if placed is not None and placed.request.background:
        return "side_job"
    return "same_key" if held.key == row.key else "other_key"


class Sample(Struct, kw_only=True):
    """The counts of the requests that ended within one step from `at`."""

    at: int
    counts: Counts


class History:
    """`clock` returns seconds, which are also the times of samples. Not thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ring: list[Sample | None] = [None] * SAMPLES
        self._codes: set[str] = set()
        self.unstored: dict[int, Counts] = {}  # for the ledger, by the span

    def add(self, rows: Iterable[tuple[Finished, Change]], *, stores: bool = False) -> None:
        """Add finished requests, in the order in which they ended, and what each did to its slot.
        `stores`: the counts are also kept until they are stored."""
        for step, some in groupby(rows, lambda pair: int(pair[0].second) // STEP):
            place, at = step % SAMPLES, step * STEP
            sample = self._ring[place]
            if sample is None or sample.at != at:
                sample = self._ring[place] = Sample(at=at, counts=Counter())
            pairs = [*some]
            usages = [row.info.usage for row, _ in pairs]
            new: Counts = Counter()
            new["requests", 0] = len(pairs)
            new["prompt", 0] = sum(usage.prompt for usage in usages)
            new["cached", 0] = sum(usage.cached for usage in usages)
            new["completion", 0] = sum(usage.completion for usage in usages)
            for row, change in pairs:
                self._count(new, row, change)
            sample.counts.update(new)
            if stores and sum(map(len, self.unstored.values())) < MOST_UNSTORED:
                self.unstored.setdefault(at - at % SPAN, Counter()).update(new)

    def samples(self, since: float = 0.0) -> list[Sample]:
        """The samples of the last hour in order, from the step of `since`; the last may still
        change."""
        oldest = max(self._clock() - STEP * SAMPLES, since - STEP)
        recent = [sample for sample in self._ring if sample is not None and sample.at > oldest]
        copies = (Sample(at=sample.at, counts=sample.counts.copy()) for sample in recent)
        return sorted(copies, key=lambda sample: sample.at)

    def _count(self, counts: Counts, row: Finished, change: Change) -> None:
        info, usage = row.info, row.info.usage
        if info.placed or info.queue_wait:
            counts["queue", bucket_of(info.queue_wait)] += 1
        if info.first_token:
            counts["first_token", bucket_of(info.first_token)] += 1
        if usage.prompt:
            counts["prompt_tokens", bucket_of(usage.prompt)] += 1
        if usage.completion > 1 and info.last_token > info.first_token:
            speed = (usage.completion - 1) / (info.last_token - info.first_token)
            counts["speed", bucket_of(speed)] += 1
        if isinstance(change, tuple):
            counts[EVICTION + change[2], 0] += 1
        if row.status >= 400 or info.outcome not in WELL:
            code = (info.outcome or str(row.status))[:LONGEST]
            if code not in self._codes and len(self._codes) >= MOST_KINDS:
                code = OTHER
            self._codes.add(code)
            counts[ERROR + code, 0] += 1
