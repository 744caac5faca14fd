"""Makes a row of the ledger from the record of a finished request. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import get_args

from ...core.events import FinishReason
from ...errors import Cancelled
from ...gateway import Info
from ...store.ledger_rows import CANCELLED, OK, LedgerRow
from ..observability import Record
from ..routes import OTHER, Routes

ENDED = frozenset(get_args(FinishReason))
LEFT = frozenset({"cancelled", Cancelled.code})
LONGEST = 128  # characters of a name
# A product of RFC 9110, with its version.
_PRODUCT = re.compile(r"[\w!#$%&'*+.^`|~-]{1,48}(?:/[\w!#$%&'*+.^`|~-]{1,48})?", re.ASCII)
FEW = 32  # evaluated tokens that are too few to measure a speed
MOST_BACKENDS = MOST_CLIENTS = 256
AGENT = 128  # characters of a User-Agent header that are read
SMOOTH = 0.8  # weight of earlier measurements


@lru_cache(MOST_CLIENTS)
def client_of(agent: str) -> str:
    """The first product of a User-Agent header, such as "OpenAI/Python"; "" if there is none."""
    match = _PRODUCT.match(agent)
    return match[0] if match else ""


def outcome_of(record: Record) -> str:
    """How a request ended: OK, CANCELLED, or the code of its error."""
    outcome = record.info.outcome
    if outcome in LEFT:
        return CANCELLED
    if outcome and outcome not in ENDED:
        return outcome[:LONGEST]
    if record.status >= 400:
        return str(record.status)
    return OK if record.status else CANCELLED


class PrefillSpeeds:
    """The seconds that each backend needs to evaluate a token, measured from requests."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}  # tokens and seconds, decaying

    def saved(self, info: Info) -> float:
        """An estimate of the seconds that the cached tokens of a request saved; 0 until a speed is
        known."""
        evaluated = info.usage.prompt - info.usage.cached
        # Several choices evaluate their prompt several times, and count it once.
        if info.choices <= 1 and info.evaluating > 0 and evaluated >= FEW:
            if len(self._sums) >= MOST_BACKENDS and info.backend not in self._sums:
                self._sums.clear()
            tokens, seconds = self._sums.get(info.backend, (0.0, 0.0))
            self._sums[info.backend] = (
                SMOOTH * tokens + evaluated,
                SMOOTH * seconds + info.evaluating,
            )
        tokens, seconds = self._sums.get(info.backend, (1.0, 0.0))
        return info.usage.cached * seconds / tokens


def row_of(
    record: Record, took: float, ended: float, routes: Routes, speeds: PrefillSpeeds
) -> LedgerRow:
    """The row of a request that ended at the time `ended` (seconds since 1970) and took so many
    seconds, by one of these routes."""
    info = record.info
    served = routes.get((record.method, record.route))
    usage = info.usage
    evaluating, writing = info.evaluating, info.writing
    if not (evaluating or writing) and info.first_token:  # the backend reported no times
        evaluating = max(0.0, info.first_token - info.placed)
        writing = max(0.0, info.last_token - info.first_token)
    return LedgerRow(
        ended=int(1000 * ended),
        request=record.id,
        key=record.key,
        user=record.user,
        team=record.team,
        model=info.model[:LONGEST],
        backend=info.backend[:LONGEST],
        slot=info.slot,
        api=served.ledger if served else OTHER,
        prompt=usage.prompt,
        cached=usage.cached,
        completion=usage.completion,
        reasoning=usage.reasoning,
        queue_seconds=info.queue_wait,
        prefill_seconds=evaluating,
        decode_seconds=writing,
        slot_seconds=info.slot_seconds,
        saved_seconds=speeds.saved(info),
        seconds=took,
        outcome=outcome_of(record),
        client=client_of(record.agent[:AGENT]),
    )
