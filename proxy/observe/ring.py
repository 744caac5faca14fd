"""The requests that run, and the last ones that ended, as people ask for them.

Of a finished request, checksums of its prompt and the words around a difference are taken, and the
prompt is let go of. What is said of it is worked out when somebody looks, or at once after a long
prompt, whose chain would take much memory."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from .. import web
from ..core.usage import tokens_per_second
from ..gateway import Info
from ..gateway.slot_request import placement_text
from ..runtime.locks import native_lock
from ..scheduling.state import Placement
from ..store.ledger_rows import LedgerRow
from ..web.disconnect import nothing
from ..web.ledger.writer import PrefillSpeeds, row_of
from ..web.observability import Observer, Record
from ..web.routes import Routes
from .cold import Earlier, Window, checksums, explain, window_of

KEPT = 512  # requests that ended
LONG = 32768  # characters of a prompt whose chain is not kept longer than needed
DEAR = 1 << 18  # characters of a prompt that its backend renders
TALKS = 64  # pairs of key and session whose last prompts are compared with the next
PROMPTS = 4  # of each
RESTORE = "restore"  # the step that comes behind the queue
HOLDERS = 5  # requests that had a slot before, as shown

AS_STORED = ("key", "user", "team", "model", "api", "client", "slot", "outcome")  # of a row

Json = dict[str, Any]
MaySee = Callable[[str], bool]
Shown = Callable[[str], str]
"""Gives the name of a backend as the caller may see it."""
_Talk = tuple[str, str, str]
_Finished = tuple[Record, float, float, Sequence[Earlier], Window | None]


class Seen(NamedTuple):
    """A request. `facts` is what no row has, with the backends' own names."""

    row: LedgerRow
    facts: Json


class Requests:
    """Add `add` to the observer's list. The methods may be called by any thread. A caller sees the
    requests of the keys that it `may_see`."""

    def __init__(self, observer: Observer) -> None:
        self.routes: Routes = {}  # of the application, once they are known
        self._observer, observer.decision = observer, self.header
        self._finished: deque[_Finished] = deque(maxlen=KEPT)  # to work out
        self._ended: deque[Seen] = deque(maxlen=KEPT)
        self._prompts: dict[_Talk, tuple[Earlier, ...]] = {}  # the last one used is the last
        self._lock, self._remembering = native_lock(), native_lock()

    def add(self, record: Record, took: float) -> None:
        """Keep a request that took so many seconds. Its text is let go of."""
        rounds = record.info.rounds() if record.info.steps else (record.info,)
        first, text, ended = rounds[0], _text(rounds[0]), time.time()
        for part in rounds:
            part.task = None
        earlier: Sequence[Earlier] = ()
        compare: Callable[[], Window | None] = nothing
        if (placed := first.placement) is not None:
            earlier, sums = self._remember(placed, first.template, text)
            if sums and 2 * first.usage.cached < first.usage.prompt:
                compare = partial(window_of, text, sums, earlier)
            if placed.request.chain.size > LONG:
                self._work_out(self._seen(record, took, ended, _decision(first, earlier, compare)))
                return
        self._finished.append((record, took, ended, earlier, compare()))
        if len(self._finished) + len(self._ended) > KEPT:
            with suppress(IndexError):  # another thread may have taken it
                self._ended.popleft()

    def ended(self, may_see: MaySee) -> Iterator[Seen]:
        """Those that ended, the newest first."""
        self._work_out()
        return (seen for seen in reversed([*self._ended]) if may_see(seen.row.key))

    def running(self, may_see: MaySee) -> Iterator[Seen]:
        """Those that run, the oldest first. Their prompts' tokens are those that are expected."""
        for record in self.running_records(may_see):
            yield self._seen(record, record.elapsed(), time.time(), self._decision(record.info))

    def running_records(self, may_see: MaySee) -> list[Record]:
        return [record for record in self._observer.running_requests() if may_see(record.key)]

    def opened(self, name: str, may_see: MaySee, shown: Shown) -> Json | None:
        """A request with what its slot held before, if it runs or is remembered: the last requests
        of this process that had the slot, the newest first, and what the next one did with their
        prompts. Of those that the caller may not see, only the times are told."""
        requests = chain(self.running(may_see), self.ended(may_see))
        opened = next((seen for seen in requests if seen.row.request == name), None)
        if opened is None:
            return None
        holders: list[Json] = []
        later = opened
        for seen in reversed([*self._ended]):
            row, placed = seen.row, seen.facts["placed"]
            is_here = row.slot >= 0 and (row.backend, row.slot) == (
                opened.row.backend,
                opened.row.slot,
            )
            if is_here and placed < later.facts["placed"] and len(holders) < HOLDERS:
                holder = {"id": row.request, "key": row.key, "tokens": row.prompt + row.completion}
                holder = holder if may_see(row.key) else dict.fromkeys(holder)
                times = {"began": placed, "ended": row.ended / 1000}
                holders.append({**holder, **times, "then": _became(later.facts["decision"])})
                later = seen
        return seen_json(opened, shown) | {"slot_before": holders}

    def header(self, record: Record) -> str:
        """The decision for a request so far, in ASCII and without its text."""
        ended = self.ended(lambda key: record.over)
        decisions = (seen.facts["decision"] for seen in ended if seen.row.request == record.id)
        decision_now = next(decisions, None) or self._decision(record.info)
        decision = decision_json(decision_now, record.shown or str)["decision"]
        decision["reason"].pop("difference")
        return json.dumps(decision)

    def decision_json(self, info: Info, shown: Shown) -> Json:
        return decision_json(self._decision(info), shown)

    def _seen(self, record: Record, took: float, ended: float, decision: Json | None) -> Seen:
        info, answers = record.info, record.info.rounds()
        last = answers[-1]
        facts: Json = {
            "place": info.first_place,
            "first_token_seconds": round(answers[0].first_token, 3),
            "timeline": timeline(info, took),
            "placed": round(ended - took + info.placed, 3),
            "decision": decision,
        }
        if not record.over:
            prompt = decision["estimated_tokens"] if decision else 0
            cached = min(prompt, decision["expected_tokens"]) if decision else 0
            facts |= {
                "state": "tools" if last is not info and last.outcome else _state(last),
                "place": last.ticket.place if last.ticket is not None else 0,
                "prompt_tokens": prompt,
                "cached_tokens": cached,
                "evaluated_tokens": prompt - cached,
                "outcome": "",
            }
        return Seen(row_of(record, took, ended, self.routes, PrefillSpeeds()), facts)

    def _work_out(self, *newest: Seen) -> None:
        with self._lock:
            for _ in range(len(self._finished)):
                self._ended.append(self._worked_out(self._finished.popleft()))
            self._ended.extend(newest)

    def _worked_out(self, finished: _Finished) -> Seen:
        record, took, ended, earlier, window = finished
        decision = _decision(record.info.rounds()[0], earlier, lambda: window)
        return self._seen(record, took, ended, decision)

    def _remember(
        self, placed: Placement, template: str, text: str
    ) -> tuple[Sequence[Earlier], Sequence[int]]:
        """The last prompts of the same key and session, the latest first, and the checksums of this
        one's `text`, which has ended: the next is compared with it."""
        request = placed.request
        talk = request.model, request.key, request.session
        with self._remembering:
            earlier = self._prompts.pop(talk, ())
            sums = checksums(text, request.chain.links, earlier)
            if not request.background:
                new = Earlier(request.chain, template, sums)
                self._prompts[talk] = (new, *earlier[: PROMPTS - 1])
                if len(self._prompts) > TALKS:
                    del self._prompts[next(iter(self._prompts))]
            elif earlier:
                self._prompts[talk] = earlier
        return earlier, sums

    def _decision(self, info: Info) -> Json | None:
        """That about a request whose prompt is at hand."""
        info = info.rounds()[0]
        if info.placement is None:
            return None
        request = info.placement.request
        earlier = self._prompts.get((request.model, request.key, request.session), ())

        def find() -> Window | None:
            text = _text(info)
            return window_of(text, checksums(text), earlier)

        return _decision(info, earlier, find)


def _decision(
    info: Info, earlier: Sequence[Earlier], find: Callable[[], Window | None]
) -> Json | None:
    """Where a request was placed, and why its prompt was evaluated."""
    if (placed := info.placement) is None:
        return None
    slot = placed.slot if placed.pinned else info.slot
    is_there = slot in (placed.slot, -1)  # where it was expected
    return {
        "backend": placed.backend,
        "slot": slot if slot >= 0 else None,
        "estimated_tokens": placed.prompt,
        "expected_tokens": placed.expected,
        "turns_before": placed.turns,
        "side_job": placed.request.background,
        "restored": placed.restores,
        "saved": placed.saves,
        "kept": placed.keeps and (is_there or not info.usage.cached),
        "continued": placed.continues and not placed.replaced and is_there,
        "replaced_tokens": placed.replaced if is_there else None,
        "passed": [{"backend": name, "why": why} for name, why in info.passed],
        "reason": explain(placed, info, earlier, find)._asdict(),
    }


def _became(next_: Json | None) -> str:
    """What became of a slot's content by the decision about the next request there."""
    if next_ is None:
        return "unknown"
    for name in ("continued", "saved", "kept"):
        if next_[name]:
            return name
    if next_["replaced_tokens"] is None:  # the server chose another slot than was expected
        return "unknown"
    return "replaced" if next_["replaced_tokens"] else "lost"


def _text(info: Info) -> str:
    """The prompt as the scheduler compares it, while it is at hand; "" if it is token ids, or costs
    much to make again."""
    task, placed = info.task, info.placement
    if task is None or placed is None:
        return ""
    if task.prompt and isinstance(task.prompt, str):
        return task.prompt
    is_dear = task.media or placed.request.chain.size > DEAR
    return "" if is_dear else placement_text(task.request)[0]


def timeline(info: Info, seconds: float) -> list[Json]:
    steps, left = list[tuple[str, float]](), seconds
    for part in info.parts():
        part_steps = [*_steps(part, left)] if isinstance(part, Info) else [part]
        left -= sum(took for _, took in part_steps)
        steps += part_steps
    steps.append(("other", left))
    return [{"step": name, "seconds": round(took, 3)} for name, took in steps if took >= 0]


def _steps(info: Info, seconds: float) -> Iterator[tuple[str, float]]:
    """Those of a round with so many seconds left. The last may be under way."""
    before = [part for part in info.steps if isinstance(part, tuple)]
    passed = info.queue_wait + sum(took for _, took in before)
    if info.placed:
        yield "prepare", max(0.0, info.placed - passed)
    yield from (step for step in before if step[0] != RESTORE)
    if info.queue_wait or info.ticket is not None:
        yield "queue", info.queue_wait or seconds - passed
    yield from (step for step in before if step[0] == RESTORE)
    if info.placed:
        first = info.first_token or seconds
        prefill = max(0.0, first - info.placed)
        if info.placement is not None and info.placement.loads:
            yield "load", max(0.0, prefill - info.evaluating)
            prefill = min(prefill, info.evaluating)
        yield "prefill", prefill
        if info.first_token:
            yield "decode", max(0.0, (info.last_token if info.outcome else seconds) - first)


def _state(answer: Info) -> str:
    if answer.placed or answer.backend:
        return "decode" if answer.first_token else "prefill"
    return "loading" if answer.loading else "queued"


def seen_json(seen: Seen, shown: Shown) -> Json:
    decision = decision_json(seen.facts["decision"], shown)
    return {**row_json(seen.row, shown), **seen.facts, **decision}


def row_json(row: LedgerRow, shown: Shown) -> Json:
    """A request of which only the row in the ledger is known."""
    speed = tokens_per_second(row.completion, row.decode_seconds)
    seconds = round(row.seconds, 3)  # before the sum: it is the time of the end
    return {
        "id": row.request,
        "object": "request",
        "state": "ended",
        "started": round(row.ended / 1000 - seconds, 3),
        "seconds": seconds,
        **{name: getattr(row, name) for name in AS_STORED},
        "backend": shown(row.backend) if row.backend else "",
        "place": 0,
        "prompt_tokens": row.prompt,
        "cached_tokens": row.cached,
        "evaluated_tokens": row.prompt - row.cached,
        "completion_tokens": row.completion,
        "tokens_per_second": round(speed, 1),
        "queue_seconds": round(row.queue_seconds, 3),
    }


def decision_json(decision: Json | None, shown: Shown) -> Json:
    if decision is None:
        return {"decision": None}
    why = decision["reason"]
    cause, values = why["cause"], dict(why["values"])
    values |= {name: shown(values[name]) for name in ("backend", "kept") if values[name]}
    sentence = sentences()[cause].format_map(values)
    reason = {**why, "sentence": sentence, "values": values}
    passed = [{**tried, "backend": shown(tried["backend"])} for tried in decision["passed"]]
    named = {"backend": shown(decision["backend"]), "passed": passed, "reason": reason}
    return {"decision": decision | named}


@cache
def sentences() -> Mapping[str, str]:
    texts = Path(web.__file__).with_name("static") / "texts" / "en.json"
    by_cause: Mapping[str, str] = json.loads(texts.read_bytes())["requests"]["why"]
    return by_cause
