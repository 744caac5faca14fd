"""The order of events, checked once, in the middle, so that no encoder has to.

Started (TextDelta | ReasoningDelta | ToolCallDelta | Progress)* (Finished | Failed)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .events import Batch, Failed, Finished, Started, TextDelta


class OrderError(AssertionError):
    """A driver or filter broke the grammar of events: a defect of ours, not of a client."""


def checked(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Pass batches on; raise OrderError at the first event out of place, or at an end without
    a terminal event."""
    begun = ended = False
    for batch in batches:
        if begun and not ended and len(batch) == 1 and type(batch[0]) is TextDelta:
            yield batch  # nearly all are this
            continue
        for event in batch:
            kind = type(event)
            if ended:
                raise OrderError(f"{kind.__name__} after the end")
            if begun == (kind is Started):
                raise OrderError(f"{kind.__name__} {'again' if begun else 'before Started'}")
            begun = True
            ended = kind is Finished or kind is Failed
        yield batch
    if not ended:
        raise OrderError("the stream ended without Finished or Failed")
