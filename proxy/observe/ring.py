"""The requests that run, and the last ones that ended, as people ask for them.

A finished request is only appended to a list. What is said of it is worked out when somebody looks,
or at once after a long prompt, whose chain would take much memory."""

from __future__ import annotations

import json
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from msgspec import Struct

from .. import web
from ..gateway import Info
from ..runtime.locks import native_lock
from ..store.ledger_rows import LedgerRow
from ..web.ledger.writer import PrefillSpeeds, row_of
from ..web.observability import Observer, Record
from ..web.routes import Routes
from .cold import Earlier, Seen, explain

KEPT = 512  # requests that ended
LONG = 64  # links of a prompt that are not kept longer than needed
TALKS = 256  # pairs of key and session whose last prompts are compared with the next
PROMPTS = 4  # of each

Json = dict[str, Any]
Shown = Callable[[str], str]
"""Gives the name of a backend as the caller may see it."""
_Talk = tuple[str, str, str]


class Ended(Struct, frozen=True, kw_only=True):
    """A request that ended; `decision` has the backends' own names."""

    row: LedgerRow
    status: int
    is_stream: bool
    place: int  # the first one in the queue
    placed: float  # seconds after it began, like the next
    first_token: float
    decision: Json | None


class Requests:
    """Add `add` to the observer's list. The methods may be called by any thread."""

    def __init__(self, observer: Observer) -> None:
        self.routes: Routes = {}  # of the application, once they are known
        self._observer = observer
        self._finished: deque[tuple[Record, float, float]] = deque(maxlen=KEPT)  # to work out
        self._ended: deque[Ended] = deque(maxlen=KEPT)
        self._prompts: OrderedDict[_Talk, deque[Earlier]] = OrderedDict()
        self._lock = native_lock()

    def add(self, record: Record, took: float) -> None:
        """Keep a request that took so many seconds."""
        self._finished.append((record, took, time.time()))
        placed = record.info.placement
        if placed is not None and len(placed.request.chain.links) > LONG:
            self._work_out()

    def ended(self, may_see: Callable[[str], bool]) -> Iterator[Ended]:
        """Those of the keys that the caller may see, the newest first."""
        self._work_out()
        return (one for one in reversed([*self._ended]) if may_see(one.row.key))

    def running(self, may_see: Callable[[str], bool]) -> list[Record]:
        """The same of those that run, the oldest first."""
        return [record for record in self._observer.running_requests() if may_see(record.key)]

    def running_json(self, record: Record, shown: Shown) -> Json:
        """A request that runs. Its prompt's tokens are those that are expected."""
        info = record.info
        with self._lock:
            decision = self._decision(info)
        row = self._row(record, record.elapsed(), time.time())
        prompt = decision["prompt_tokens"] if decision else 0
        cached = min(prompt, decision["expected_tokens"]) if decision else 0
        is_placed = info.placed or info.backend
        waits = "loading" if info.loading else "queued"
        return row_json(row, shown) | {
            "state": waits if not is_placed else "decode" if info.first_token else "prefill",
            "place": 0 if is_placed else info.place or info.first_place,
            "prompt_tokens": prompt,
            "cached_tokens": cached,
            "evaluated_tokens": prompt - cached,
            "first_token_seconds": round(info.first_token, 3),
            "outcome": "",
            **decision_json(decision, shown),
        }

    def _row(self, record: Record, took: float, ended: float) -> LedgerRow:
        return row_of(record, took, ended, self.routes, PrefillSpeeds())

    def _work_out(self) -> None:
        with self._lock:
            for _ in range(len(self._finished)):
                record, took, ended = self._finished.popleft()
                info = record.info
                one = Ended(
                    row=self._row(record, took, ended),
                    status=record.status,
                    is_stream=record.stream,
                    place=info.first_place,
                    placed=info.placed,
                    first_token=info.first_token,
                    decision=self._decision(info),
                )
                self._ended.append(one)
                self._remember(info)

    def _remember(self, info: Info) -> None:
        """Remember the prompt, to compare the next of the same key and session with it."""
        placed = info.placement
        if placed is None or placed.request.background:
            return
        prompts = self._prompts.setdefault(_talk(info), deque(maxlen=PROMPTS))
        prompts.appendleft(Earlier(placed.request.chain, info.template))
        self._prompts.move_to_end(_talk(info))
        if len(self._prompts) > TALKS:
            self._prompts.popitem(last=False)

    def _decision(self, info: Info) -> Json | None:
        """Where a request was placed, and why its prompt was evaluated: as it was expected, until
        its backend has reported it."""
        placed, usage = info.placement, info.usage
        if placed is None:
            return None
        seen = Seen(
            prompt=usage.prompt,
            cached=usage.cached if usage.prompt else placed.expected,
            template=info.template,
            uncached=info.uncached,
            compacted=info.compacted,
            earlier=self._prompts.get(_talk(info), ()),
        )
        cause, values = explain(placed, seen)
        return {
            "backend": placed.backend,
            "slot": placed.slot,
            "slots": placed.slots,
            "prompt_tokens": placed.prompt,
            "expected_tokens": placed.expected,
            "turns_before": placed.turns,
            "side_job": placed.request.background,
            "restored": placed.restores,
            "saved": placed.saves,
            "replaced_tokens": placed.before_tokens if placed.before else 0,
            "passed": [{"backend": name, "why": why} for name, why in info.passed],
            "reason": {"cause": cause, "values": values},
        }


def _talk(info: Info) -> _Talk:
    placed = info.placement
    assert placed is not None
    return placed.request.model, placed.request.key, placed.request.session


def ended_json(one: Ended, shown: Shown) -> Json:
    """A request that ended, with its timeline."""
    row = one.row
    # Reading the request, limits, and loading or restoring before the first run.
    steps = {
        "prepare": max(0.0, one.placed - row.queue_seconds),
        "queue": row.queue_seconds,
        "prefill": row.prefill_seconds,
        "decode": row.decode_seconds,
    }
    steps["other"] = max(0.0, row.seconds - sum(steps.values()))
    return row_json(row, shown) | {
        "status": one.status,
        "stream": one.is_stream,
        "place": one.place,
        "first_token_seconds": round(one.first_token, 3),
        "timeline": [{"step": name, "seconds": round(took, 3)} for name, took in steps.items()],
        **decision_json(one.decision, shown),
    }


def row_json(row: LedgerRow, shown: Shown) -> Json:
    """A request of which only the row in the ledger is known."""
    speed = row.completion / row.decode_seconds if row.decode_seconds else 0.0
    return {
        "id": row.request,
        "object": "request",
        "state": "ended",
        "started": round(row.ended / 1000 - row.seconds, 3),
        "seconds": round(row.seconds, 3),
        **{name: getattr(row, name) for name in ("key", "user", "team", "model", "api", "client")},
        "backend": shown(row.backend) if row.backend else "",
        "slot": row.slot,
        "place": 0,
        "prompt_tokens": row.prompt,
        "cached_tokens": row.cached,
        "evaluated_tokens": row.prompt - row.cached,
        "completion_tokens": row.completion,
        "tokens_per_second": round(speed, 1),
        "queue_seconds": round(row.queue_seconds, 3),
        "outcome": row.outcome,
    }


def decision_json(decision: Json | None, shown: Shown) -> Json:
    if decision is None:
        return {}
    cause, values = decision["reason"]["cause"], dict(decision["reason"]["values"])
    values |= {name: shown(values[name]) for name in ("backend", "kept") if values[name]}
    sentence = sentences()[cause].format_map(values)
    out = {
        **decision,
        "backend": shown(decision["backend"]),
        "passed": [{**one, "backend": shown(one["backend"])} for one in decision["passed"]],
        "reason": {"cause": cause, "sentence": sentence, "values": values},
    }
    return {"decision": out}


@cache
def sentences() -> Mapping[str, str]:
    """The English sentences of the pages, by cause."""
    texts = Path(web.__file__).with_name("static") / "texts" / "en.json"
    found: Mapping[str, str] = json.loads(texts.read_bytes())["requests"]["why"]
    return found
