"""What only servers of 2023 need: they report neither their slots nor their vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from ..errors import BackendBusy, BadRequest, Unsupported
from .driver import Capabilities, Driver

NOTHING = {"prompt": "", "n_predict": 1, "cache_prompt": True}  # evaluates nothing

STEP = 1024
MOST = STEP * STEP  # ids; larger than any vocabulary


def check_ids(
    driver: Driver, ids: Collection[int], caps: Capabilities, param: str, *, harmless: bool = False
) -> None:
    """Raises BadRequest for a token id outside of the vocabulary, which crashes an old server; if
    it is not `harmless`, Unsupported for a vocabulary of unknown size. Like `Driver.n_vocab`."""
    if not ids or (caps.queues and not caps.n_vocab):
        return
    try:
        size = caps.n_vocab or driver.n_vocab()
    except BackendBusy:
        if harmless:
            return
        raise
    if size is None:
        return
    wrong = next((token for token in ids if not 0 <= token < size), None)
    if size and wrong is not None:
        raise BadRequest(
            f"{param} contains the token id {wrong}: this model's ids are 0 to {size - 1}",
            param=param,
        )
    if not size and not harmless:
        raise Unsupported(
            "this model's backend does not report its vocabulary, so token ids cannot be checked:"
            " send text",
            param=param,
        )


def counted(existing: Callable[[Sequence[int]], set[int]]) -> int:
    """The number of ids, 0 if the answers are not plausible. `existing` returns which ids exist: an
    old server repeats the pairs of `logit_bias` with such ids at the end of an answer."""
    coarse = existing(range(0, MOST, STEP)).intersection(range(0, MOST, STEP))
    if not coarse or MOST - STEP in coarse:
        return 0  # a server that repeats every id reveals nothing
    fine = range(max(coarse), max(coarse) + STEP)
    return max(existing(fine).intersection(fine), default=-1) + 1


# -- slots -----------------------------------------------------------------------------------------

MOST_SLOTS = 256


def count_slots(ask: Callable[[int], int | None]) -> int:
    """The number of slots. 0 if the server does not answer or names slots beyond MOST_SLOTS.

    The answer to an empty prompt names its slot: the requested one if it exists and is idle,
    otherwise the least recently used idle one. So it proves that all lower numbers exist. The next
    number is requested until it was missed so often that every idle slot has had its turn."""
    count = missed = 0
    while missed <= count:
        slot = ask(count)
        if slot is None or not 0 <= slot < MOST_SLOTS:
            return 0
        if slot >= count:
            count, missed = slot + 1, 0
        else:
            missed += 1
    return count
