"""The last hour: counts of finished requests in samples of ten seconds, and what slots kept."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby
from operator import attrgetter
from typing import get_args

from msgspec import Struct, msgpack

from ...core.events import FinishReason
from ...errors import Cancelled, RequestCancelled
from ...gateway import Info, Placement
from ...store.measures import ERROR, EVICTION, Counts, tally

OTHER = "other"  # requests that match no route


Change = tuple[float, float, str] | float


class Finished(Struct, gc=False):
    """A finished request: the `second` at which it ended, how many seconds it `took`, and the
    `changes` of its slots, see `Contents`."""

    second: float
    route: str
    status: int
    took: float
    info: Info
    asks_model: bool = True
    changes: Sequence[Change] = ()


STEP = 10  # seconds per sample
SAMPLES = 360
SPAN = 600  # seconds of counts that are stored together
MOST_KINDS = 64  # distinct error codes
LONGEST = 64  # characters of one
MOST_UNSTORED = 16384  # counts that wait to be stored
MOST_HELD = 16384  # slots whose content is remembered
MOST_TENURES = 4096  # contents that are not in their slots any more
LEFT = frozenset({"cancelled", Cancelled.code, RequestCancelled.code})  # somebody wanted it
WELL = LEFT.union(get_args(FinishReason), {""})
NO_COUNTS = msgpack.encode({})
_unpacked = msgpack.Decoder(dict[tuple[str, int], int]).decode


class Tenure(Struct, array_like=True, gc=False):
    """What a slot kept `since` its first request began, `until` its last one ended: the
    conversation of a key, and the tokens of its last `prompt`. Times are seconds since 1970. It
    `ended` when another one took the slot, because of `why`; 0 while it is there."""

    backend: str
    slot: int
    key: str
    since: float
    until: float
    prompt: int
    conversation: str  # the digest of its last turn, as in `SlotView`, "" if it is not known
    requests: int = 1
    ended: float = 0.0
    why: str = ""


class Contents:
    """What slots hold, as the scheduler knew it when it placed the requests that have finished, in
    the slots that backends reported. One of several choices counts for none: it names one slot."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, int], Tenure] = {}
        self._past: deque[bytes] = deque(maxlen=MOST_TENURES)  # packed: a third of the memory

    def add(self, row: Finished) -> None:
        """Set the row's changes: the gap before a reuse, or what was replaced, and why."""
        info = row.info
        if not info.steps:
            if (grant := info.placement) is not None and info.choices <= 1:
                row.changes = self._add(info, grant, row.second)
            return
        rounds = info.rounds()
        placed = [(info, info.placement) for info in rounds if info.placement and info.choices <= 1]
        if placed:
            last, grant = placed[-1]
            offset = row.second - _worked(last) - grant.at
            ends = (grant.at + offset + _worked(info) for info, grant in placed)
            changes = [self._add(*pair, end) for pair, end in zip(placed, ends, strict=True)]
            row.changes = [*chain.from_iterable(changes)]

    def _add(self, info: Info, placed: Placement, until: float) -> Sequence[Change]:
        place = placed.backend, placed.slot if info.slot < 0 else info.slot
        prompt = placed.request.chain
        link = prompt.links[prompt.turn - 1].hex()[:12] if prompt.links else ""
        began = until - _worked(info)
        new = Tenure(*place, placed.request.key, began, until, info.usage.prompt, link)
        held = self._held.pop(place, None)
        self._held[place] = new  # the last one used is the last
        if len(self._held) > MOST_HELD:
            del self._held[next(iter(self._held))]
        if held is None:
            return ()
        idle = max(0.0, began - held.until)
        goes_on = placed.continues and not placed.replaced
        is_guess = not placed.pinned or place[1] != placed.slot  # the server chose the slot
        if is_guess:
            goes_on = held.conversation in (digest.hex()[:12] for digest in prompt.links)
        if goes_on:
            new.since, new.requests = held.since, held.requests + 1
            return (idle,)
        is_replaced = placed.replaced or is_guess
        held.ended = max(began, held.until)
        held.why = _why(held.key, placed) if is_replaced else "lost"  # before
        self._past.append(msgpack.encode(held))
        return ((max(0.0, began - held.since), idle, held.why),) if is_replaced else ()

    def tenures(self, since: float) -> Iterator[Tenure]:
        """Those that were in their slots at that time or later."""
        past = (msgpack.decode(packed, type=Tenure) for packed in self._past)
        both = chain(past, self._held.values())
        return (tenure for tenure in both if not tenure.ended or tenure.ended >= since)


def _worked(info: Info) -> float:
    return max(0.0, info.last_token - info.placed)


def _why(key: str, placed: Placement) -> str:
    """Why a request has replaced what this key had in the slot."""
    if placed.saves or placed.keeps:
        return "saved"
    if placed.request.background:
        return "side_job"
    return "same_key" if key == placed.request.key else "other_key"


class History:
    """`clock` returns seconds, which are also the times of samples. `unstored` are counts for the
    ledger, by the span; None without one. Not thread-safe."""

    def __init__(self, clock: Callable[[], float], *, stores: bool = False) -> None:
        self._clock = clock
        self._samples: dict[int, bytes] = {}  # packed: an hour of them is a megabyte less
        self._at, self._newest = 0, Counts()  # the sample that may still change
        self._codes: set[str] = set()
        self.unstored: dict[int, Counts] | None = {} if stores else None

    def add(self, rows: Iterable[Finished]) -> None:
        """Add finished requests, in the order in which they ended."""
        for step, group in groupby(rows, lambda row: int(row.second) // STEP):
            at, new = step * STEP, self._counts([*group])
            if at != self._at:
                self._samples = self._packed()
                self._at, self._newest = at, Counter(_unpacked(self._samples.get(at, NO_COUNTS)))
                if len(self._samples) >= SAMPLES:
                    del self._samples[next(iter(self._samples))]
            self._newest.update(new)
            if self.unstored is not None and sum(map(len, self.unstored.values())) < MOST_UNSTORED:
                self.unstored.setdefault(at - at % SPAN, Counter()).update(new)

    def samples(self, since: float = 0.0) -> dict[int, Counts]:
        """The counts of the last hour by time, from `since`; the last may still change."""
        oldest = max(self._clock() - STEP * SAMPLES, since - STEP)
        packed = self._packed().items()
        return {at: Counter(_unpacked(counts)) for at, counts in packed if at > oldest}

    def _packed(self) -> dict[int, bytes]:
        newest = {self._at: msgpack.encode(self._newest)} if self._newest else {}
        return self._samples | newest

    def _counts(self, rows: list[Finished]) -> Counts:
        infos = [row.info for row in rows]
        usages = [info.usage for info in infos]
        counts: Counts = Counter({("requests", 0): len(rows)})
        for name in ("prompt", "cached", "completion"):
            counts[name, 0] = sum(map(attrgetter(name), usages))
        measured: dict[str, Iterable[float]] = {
            "queue": [info.queue_wait for info in infos if info.placed or info.queue_wait],
            "first_token": filter(None, map(attrgetter("first_token"), infos)),
            "prompt_tokens": filter(None, map(attrgetter("prompt"), usages)),
            "speed": [
                (info.usage.completion - 1) / (info.last_token - info.first_token)
                for info in infos
                if info.usage.completion > 1 and info.last_token > info.first_token
            ],
        }
        for name, values in measured.items():
            for bucket, count in tally(values):
                counts[name, bucket] = count
        changes = chain.from_iterable(map(attrgetter("changes"), rows))
        evictions = [change[2] for change in changes if isinstance(change, tuple)]
        losses = [info.placement.loss for info in infos if info.placement is not None]
        # An eviction was counted when it happened.
        evictions += [loss.why for loss in losses if loss is not None and loss.why != "evicted"]
        counts.update((EVICTION + why, 0) for why in evictions)
        for row in rows:
            outcome = row.info.outcome
            if outcome not in WELL or (row.status >= 400 and outcome not in LEFT):
                code = (outcome or str(row.status))[:LONGEST]
                if code not in self._codes and len(self._codes) >= MOST_KINDS:
                    code = OTHER
                self._codes.add(code)
                counts[ERROR + code, 0] += 1
        return counts
