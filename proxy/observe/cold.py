"""Why a prompt was evaluated again. Pure.

The scheduler notes what it knew when it granted a slot (`Placement`); the backend reports how much
it found cached. `explain` compares the two and names one cause. The texts of the pages have a
sentence for each cause, under `requests.why`, with the values in their places."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from msgspec import Struct

from ..gateway import Info
from ..scheduling.prefix import BLOCK, Chain, agreement
from ..scheduling.state import Placement
from ..web.observability.record import duration


class Reason(NamedTuple):
    cause: str
    values: Mapping[str, str | int]


class Earlier(Struct, frozen=True):
    """An earlier prompt of the same key and session, and the template that it was made with."""

    chain: Chain
    template: str


def explain(placed: Placement, info: Info, earlier: Iterable[Earlier] = ()) -> Reason:
    """The cause why a prompt was evaluated, or "warm". Until its backend has reported what was
    cached, it is as it was expected. `earlier` has the last prompts of the same key and session,
    the latest first."""
    prompt, cached = info.usage.prompt, info.usage.cached
    if not prompt:
        prompt, cached = placed.prompt, placed.expected
    values: dict[str, str | int] = {
        "prompt": prompt,
        "cached": cached,
        "expected": placed.expected,
        "backend": placed.backend,
        "kept": placed.kept_on,
        "slot": placed.slot,
        "messages": info.compacted,
        "unit": "token" if placed.request.ids else "character",
        "begin": placed.shared,
    }
    cause = "warm" if 2 * cached >= prompt else _cause(placed, info, cached)
    if not cause:
        known = _of_loss(placed) or _of_earlier(placed, info.template, earlier)
        cause, values = known[0], values | known[1]
    return Reason(cause, values)


def _cause(placed: Placement, info: Info, cached: int) -> str:
    """The cause that the placement and the request say; "" if only their past can say it."""
    is_cut = 0 < placed.shared < placed.kept_turn
    if info.uncached:
        return "off"
    if info.compacted:
        return "context"
    if placed.request.background and not placed.turns:
        return "side_job"
    if placed.loads:
        return "loads"
    if placed.continues:
        is_kept = 2 * cached >= placed.expected
        return "changed" if is_cut else "warm" if is_kept else "server"
    if placed.kept_on not in ("", placed.backend):
        return "elsewhere"
    return "busy" if placed.kept_busy else "changed" if is_cut else ""


def _of_loss(placed: Placement) -> tuple[str, dict[str, str | int]] | None:
    if (loss := placed.loss) is None:
        return None
    seconds = max(0, round(placed.at - loss.at))
    values = dict[str, str | int](backend=loss.backend, slot=loss.slot, slots=loss.slots)
    values.update(seconds=seconds, time=duration(seconds))
    by = "side_job" if loss.side_job else "own"
    by = by if loss.key == placed.request.key else "key"
    return (f"evicted_{by}" if loss.why == "evicted" else loss.why), values


def _of_earlier(
    placed: Placement, template: str, all_earlier: Iterable[Earlier]
) -> tuple[str, dict[str, str | int]]:
    chain = placed.request.chain
    ends = _boundaries(chain)
    for earlier in all_earlier:
        before, agrees = _boundaries(earlier.chain), agreement(chain, earlier.chain)
        if not before or len(ends) <= len(before) or agrees >= before[-1]:
            continue  # another conversation, or nothing has changed
        if earlier.template != template:
            return "template", {}
        if agrees >= before[0]:
            if placed.request.session or 2 * agrees > before[-1]:
                return "changed", {"begin": agrees}
        elif ends[: len(before)] == before:
            # Its messages are as long as those of the earlier prompt, and there are more.
            end = next(end for end in chain.ends if end > agrees)
            return "head", {"begin": agrees, "end": end}
    if placed.turns:
        return "unknown", {}
    return ("fresh" if placed.fresh and placed.replaced else "new"), {}


def _boundaries(chain: Chain) -> list[int]:
    """The ends of its messages: those of blocks are the same in all prompts."""
    return [end for end in chain.ends[: chain.turn] if end % BLOCK]
