"""Why a prompt was evaluated again. Pure.

The scheduler notes what it knew when it granted a slot (`Placement`); the backend reports how much
it found cached. `explain` compares the two and names one cause. The texts of the pages have a
sentence for each cause, under `requests.why`, with the values in their places."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from msgspec import Struct

from ..scheduling.prefix import BLOCK, Chain
from ..scheduling.state import Loss, Placement


class Reason(NamedTuple):
    cause: str
    values: Mapping[str, str | int]


class Earlier(Struct, frozen=True):
    """An earlier prompt of the same key and session, and the template that it was made with."""

    chain: Chain
    template: str


class Seen(Struct, frozen=True, kw_only=True):
    """What is known of a request beside its placement. `prompt` and `cached` are the tokens that
    the backend reported; `template` is that of the backend."""

    prompt: int
    cached: int
    template: str = ""
    uncached: bool = False
    compacted: int = 0
    earlier: Iterable[Earlier] = ()  # the latest first


def explain(placed: Placement, seen: Seen) -> Reason:
    """The cause why a prompt was evaluated, or "warm"."""
    prompt, cached = seen.prompt or placed.prompt, seen.cached
    values: dict[str, str | int] = {
        "prompt": prompt,
        "cached": cached,
        "expected": placed.expected,
        "backend": placed.backend,
        "kept": placed.kept_on,
        "slot": placed.slot,
        "slots": placed.slots,
        "messages": seen.compacted,
        "unit": "token" if placed.request.ids else "character",
        "begin": placed.shared,
    }
    cause = _cause(placed, seen, prompt, cached)
    if cause == "":
        cause, more = _of_loss(placed, placed.loss) if placed.loss else _of_earlier(placed, seen)
        values |= more
    return Reason(cause, values)


def _cause(placed: Placement, seen: Seen, prompt: int, cached: int) -> str:
    """The cause that the placement and the request say; "" if only their past can say it."""
    is_cut = placed.shared < placed.kept_turn
    if 2 * cached >= prompt:
        return "warm"
    if seen.uncached:
        return "off"
    if seen.compacted:
        return "context"
    if placed.request.background and not placed.turns:
        return "side_job"
    if placed.loads:
        return "loads"
    if placed.continues:
        if is_cut and placed.shared:
            return "changed"
        return "server" if 2 * cached < placed.expected else "warm"
    if not placed.kept_on:
        return ""
    if placed.kept_on != placed.backend:
        return "elsewhere"
    if placed.kept_busy:
        return "busy"
    return "changed" if is_cut and placed.shared else ""


def _of_loss(placed: Placement, loss: Loss) -> tuple[str, dict[str, str | int]]:
    values: dict[str, str | int] = {
        "backend": loss.backend,
        "slot": loss.slot,
        "slots": loss.slots,
        "seconds": max(0, round(placed.at - loss.at)),
    }
    if loss.why != "evicted":
        return loss.why, values
    if loss.key != placed.request.key:
        return "evicted_key", values
    return "evicted_side_job" if loss.side_job else "evicted_own", values


def _of_earlier(placed: Placement, seen: Seen) -> tuple[str, dict[str, str | int]]:
    chain, request = placed.request.chain, placed.request
    for earlier in seen.earlier:
        before = _boundaries(earlier.chain)
        if not before or len(_boundaries(chain)) <= len(before):
            continue
        if earlier.template != seen.template:
            return "template", {}
        if (place := difference(chain, earlier.chain)) is not None and place[0] < before[0]:
            return "head", {"begin": place[0], "end": place[1]}
        agrees = _agreement(chain, earlier.chain)
        if (request.session or 2 * agrees > before[-1]) and before[0] <= agrees < before[-1]:
            return "changed", {"begin": agrees}
    if placed.turns:
        return "unknown", {}
    return ("fresh" if placed.fresh and placed.before else "new"), {}


def _agreement(chain: Chain, other: Chain) -> int:
    """The end of the last link that two prompts share."""
    links = {*other.links}
    shared = (end for end, link in zip(chain.ends, chain.links, strict=True) if link in links)
    return max(shared, default=0)


def difference(chain: Chain, earlier: Chain) -> tuple[int, int] | None:
    """Where a prompt differs for the first time from an earlier one that it seems to continue: its
    messages are as long as those of the earlier one, and there are more. None if it agrees with the
    earlier one, or seems to be another conversation."""
    ends, before = _boundaries(chain), _boundaries(earlier)
    if not before or len(ends) <= len(before) or ends[: len(before)] != before:
        return None
    links = dict(zip(earlier.ends, earlier.links, strict=True))
    begin = 0
    for end, link in zip(chain.ends, chain.links, strict=True):
        if end > before[-1]:
            return None
        if end in links:
            if links[end] != link:
                return begin, end
            begin = end
    return None


def _boundaries(chain: Chain) -> list[int]:
    """The ends of its messages: those of blocks are the same in all prompts."""
    return [end for end in chain.ends[: chain.turn] if end % BLOCK]
