"""The order of events, the fold of a stream, and counts."""

from __future__ import annotations

import pytest

from proxy.core.events import (
    Batch,
    Failed,
    Finished,
    OrderError,
    Started,
    TextDelta,
)
from proxy.core.fold import fold
from proxy.core.usage import Usage
from proxy.errors import UpstreamFault
from tests.fakes import checked

END = Finished(reason="stop", usage=Usage(3, 2, 1))


@pytest.mark.parametrize(
    "batches",
    [
        [],
        [[TextDelta("a"), END]],
        [[Started()], [TextDelta("a")]],
        [[Started(), Started(), END]],
        [[Started(), END, TextDelta("a")]],
        [[Started(), END], [END]],
    ],
)
def test_event_order_violation_is_a_defect(batches: list[Batch]) -> None:
    with pytest.raises(OrderError):
        list(checked(batches))


def test_ordered_stream_passes_unchanged_with_ticks() -> None:
    batches: list[Batch] = [[], [Started(), TextDelta("a")], [], [END]]
    assert list(checked(batches)) == batches


def test_early_failure_violates_the_order_but_ends_the_stream() -> None:
    assert list(checked([[Started()], [Failed(ValueError())]]))


def test_fold_raises_the_failure_of_the_stream() -> None:
    with pytest.raises(UpstreamFault):
        fold([(0, [Started()]), (0, [Failed(UpstreamFault("broke off"))])])
