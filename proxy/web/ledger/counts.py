"""How many rows of the ledger this process has stored, for the metrics."""

from __future__ import annotations

from msgspec import Struct


class LedgerCounts(Struct, frozen=True):
    """Rows that this process has stored, has lost, and has still to store."""

    stored: int
    lost: int
    waiting: int
