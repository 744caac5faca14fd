"""What is left of a request that is over, for those who count.

Rows, not sums: to add up some dozens of them at once, column by column, costs a fraction of what
every request would pay by itself, and what nobody asks for is added up when there is time.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .observe import Record

# The second it ended in, backend ("" for none), route, status and outcome; tokens of the prompt,
# those of them not evaluated again, tokens written; and seconds: in the queue, to the first and to
# the last token (0 for none), and altogether; then of the backend's own work seconds on the prompt
# and on tokens, and the size of its longest sequence.
Ended = tuple[int, str, str, int, str, int, int, int, float, float, float, float, float, float, int]

OTHER = "other"  # requests that no route takes

backend_of = itemgetter(1)


def ended(record: Record, took: float, at: float) -> Ended:
    """The request of this record took so many seconds, and is over at this time of the clock."""
    info = record.info
    usage = info.usage
    return (
        int(at),
        info.backend,
        record.route or OTHER,
        record.status,
        info.outcome,
        usage.prompt,
        usage.cached,
        usage.completion,
        info.queue_wait,
        info.first_token,
        info.last_token,
        took,
        info.evaluating,
        info.writing,
        info.longest,
    )
