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
from typing import Any, NamedTuple

from .. import web
from ..gateway import Info
from ..runtime.locks import native_lock
from ..scheduling.state import Placement
from ..store.ledger_rows import LedgerRow
from ..web.ledger.writer import PrefillSpeeds, row_of
from ..web.observability import Observer, Record
from ..web.routes import Routes
from .cold import Earlier, explain

KEPT = 512  # requests that ended
LONG = 64  # links of a prompt that are not kept longer than needed
TALKS = 64  # pairs of key and session whose last prompts are compared with the next
PROMPTS = 4  # of each

Json = dict[str, Any]
Shown = Callable[[str], str]
"""Gives the name of a backend as the caller may see it."""
_Talk = tuple[str, str, str]


class Ended(NamedTuple):
    """A request that ended. `facts` is what no row has, with the backends' own names."""

    row: LedgerRow
    facts: Json


class Requests:
    """Add `add` to the observer's list. The methods may be called by any thread."""

    def __init__(self, observer: Observer) -> None:
        self.routes: Routes = {}  # of the application, once they are known
        self._observer, observer.decision = observer, self.header
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
        runs = "decode" if info.first_token else "prefill"
        return row_json(row, shown) | {
            "state": runs if is_placed else waits,
            "place": 0 if is_placed else info.place or info.first_place,
            "prompt_tokens": prompt,
            "cached_tokens": cached,
            "evaluated_tokens": prompt - cached,
            "first_token_seconds": round(info.first_token, 3),
            "outcome": "",
            **decision_json(decision, shown),
        }

    def header(self, record: Record) -> str:
        """The decision for a request so far, in ASCII."""
        return json.dumps(self.decision_json(record.info, record.shown or str)["decision"])

    def decision_json(self, info: Info, shown: Shown) -> Json:
        """The same as JSON."""
        self._work_out()
        with self._lock:
            decision = self._decision(info)
        return decision_json(decision, shown)

    def _row(self, record: Record, took: float, ended: float) -> LedgerRow:
        return row_of(record, took, ended, self.routes, PrefillSpeeds())

    def _work_out(self) -> None:
        with self._lock:
            for _ in range(len(self._finished)):
                record, took, ended = self._finished.popleft()
                info, row = record.info, self._row(record, took, ended)
                facts = {
                    "status": record.status,
                    "stream": record.stream,
                    "place": info.first_place,
                    "first_token_seconds": round(info.first_token, 3),
                    "timeline": _timeline(row, info.placed),
                    "decision": self._decision(info),
                }
                self._ended.append(Ended(row, facts))
                self._remember(info)

    def _remember(self, info: Info) -> None:
        """Remember the prompt, to compare the next of the same key and session with it."""
        if (placed := info.placement) is not None and not placed.request.background:
            talk = _talk(placed)
            prompts = self._prompts.setdefault(talk, deque(maxlen=PROMPTS))
            prompts.appendleft(Earlier(placed.request.chain, info.template))
            self._prompts.move_to_end(talk)
            if len(self._prompts) > TALKS:
                self._prompts.popitem(last=False)

    def _decision(self, info: Info) -> Json | None:
        """Where a request was placed, and why its prompt was evaluated."""
        if (placed := info.placement) is None:
            return None
        cause, values = explain(placed, info, self._prompts.get(_talk(placed), ()))
        return {
            "backend": placed.backend,
            "slot": placed.slot,
            "prompt_tokens": placed.prompt,
            "expected_tokens": placed.expected,
            "turns_before": placed.turns,
            "side_job": placed.request.background,
            "restored": placed.restores,
            "saved": placed.saves,
            "replaced_tokens": placed.replaced,
            "passed": [{"backend": name, "why": why} for name, why in info.passed],
            "reason": {"cause": cause, "values": values},
        }


def _talk(placed: Placement) -> _Talk:
    return placed.request.model, placed.request.key, placed.request.session


def _timeline(row: LedgerRow, placed: float) -> list[Json]:
    """The steps of a request whose first run began after so many seconds."""
    steps = {
        "prepare": max(0.0, placed - row.queue_seconds),  # with limits, loading and restoring
        "queue": row.queue_seconds,
        "prefill": row.prefill_seconds,
        "decode": row.decode_seconds,
    }
    steps["other"] = max(0.0, row.seconds - sum(steps.values()))
    return [{"step": name, "seconds": round(took, 3)} for name, took in steps.items()]


def ended_json(one: Ended, shown: Shown) -> Json:
    """A request that ended."""
    decision = decision_json(one.facts["decision"], shown)
    return {**row_json(one.row, shown), **one.facts, **decision}


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
        return {"decision": None}
    cause, values = decision["reason"]["cause"], dict(decision["reason"]["values"])
    values |= {name: shown(values[name]) for name in ("backend", "kept") if values[name]}
    sentence = sentences()[cause].format_map(values)
    reason = {"cause": cause, "sentence": sentence, "values": values}
    passed = [{**one, "backend": shown(one["backend"])} for one in decision["passed"]]
    named = {"backend": shown(decision["backend"]), "passed": passed, "reason": reason}
    return {"decision": decision | named}


@cache
def sentences() -> Mapping[str, str]:
    """The English sentences of the pages, by cause."""
    texts = Path(web.__file__).with_name("static") / "texts" / "en.json"
    found: Mapping[str, str] = json.loads(texts.read_bytes())["requests"]["why"]
    return found
