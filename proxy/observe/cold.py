"""Why a prompt was evaluated again. Pure.

The scheduler notes what it knew when it granted a slot (`Placement`); the backend reports how much
it found cached. `explain` compares the two and names one cause. The texts of the pages have a
sentence for each cause, under `requests.why`, with the values in their places."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress, count, pairwise, starmap
from operator import attrgetter, ne
from typing import NamedTuple

from msgspec import Struct

from ..gateway import Info
from ..scheduling.prefix import BLOCK, Chain, agreement
from ..scheduling.state import Placement
from ..web.observability.record import duration

PIECE = 32  # characters of a prompt that have a checksum together
PIECES = 2048  # that have one
BEFORE, AFTER = 16, 48  # characters of a prompt that are shown around a difference
OPENING = 2  # messages of a conversation that begins: instructions and a question
CUTS = ("changed", "head", "template")  # causes that are a difference between two prompts
FIRST = ("new", "unmatched", "fresh")  # and those that a change near the head may look like
SHORT = 16  # pieces that a short difference may have,
SHIFT = 64  # characters by which it may be longer or shorter than the earlier one,
SAME = 8  # and pieces behind it that are the same


class Window(NamedTuple):
    """The text around the piece in which a prompt first differs from an earlier one: where the
    piece and the text begin. `end` is where both are the same again, if the difference is short. So
    many `times` the last `prompts` began to differ there, each from the one before."""

    at: int
    begin: int
    text: str
    end: int = 0
    times: int = 1
    prompts: int = 1


class Reason(NamedTuple):
    """`difference` has the first position where a prompt differs from an earlier one, within PIECE
    characters, and the text before and after it."""

    cause: str
    values: Mapping[str, str | float]
    difference: Mapping[str, str | float] | None = None


class Earlier(Struct, frozen=True):
    """An earlier prompt of the same key and session, the template that it was made with, and
    checksums of its beginning."""

    chain: Chain
    template: str
    sums: array[int] = array("q")  # never changed


_SUMS = attrgetter("sums")
_PLACES = [slice(at, at + PIECE) for at in range(0, PIECE * PIECES, PIECE)]


def checksums(
    text: str, links: Sequence[bytes] = (), all_earlier: Iterable[Earlier] = ()
) -> array[int]:
    """Those of the pieces of a prompt's beginning. What these links say that it shares with an
    earlier prompt, up to the end of its last message, is taken from there."""
    count, shared = min(len(text) // PIECE, PIECES), array("q")
    for earlier in all_earlier if count else ():
        chain = earlier.chain
        if chain.links and chain.links[chain.turn - 1] in links:
            shared = earlier.sums[: min(count, chain.ends[chain.turn - 1] // PIECE)]
            if len(shared) == len(earlier.sums) == count:
                return earlier.sums
            break
    return shared + array("q", [*map(hash, map(text.__getitem__, _PLACES[len(shared) : count]))])


def explain(
    placed: Placement,
    info: Info,
    earlier: Sequence[Earlier] = (),
    find: Callable[[], Window | None] = lambda: None,
) -> Reason:
    """The cause why a prompt was evaluated, or "warm". Until its backend has reported what was
    cached, it is as it was expected. `earlier` has the last prompts of the same key and session,
    the latest first, and `find` returns where it differs, if that is known."""
    prompt, cached = info.usage.prompt, info.usage.cached
    if not prompt:
        prompt, cached = placed.prompt, placed.expected
    values: dict[str, str | float] = {
        "prompt": prompt,
        "cached": cached,
        "expected": placed.expected,
        "backend": placed.backend,
        "kept": placed.kept_on,
        "slot": placed.slot if placed.pinned else info.slot,
        "messages": info.compacted,
        "unit": "token" if placed.request.ids else "character",
        "begin": placed.shared,
        "times": 1,
        "prompts": 1,
    }
    # The counts of a shortened conversation include those of writing its summary.
    is_warm = 2 * cached >= prompt and (placed.continues or not info.compacted)
    cause = "warm" if is_warm else _cause(placed, info, cached)
    if not cause:
        explained = _of_loss(placed) or _of_earlier(placed, info.template, earlier)
        cause, values = explained[0], values | explained[1]
    difference: dict[str, str | float] | None = None
    if cause in (*CUTS, *FIRST) and (window := find()) is not None:
        begin, end = max(window.at, int(values["begin"])), window.at + PIECE
        values |= {"times": window.times, "prompts": window.prompts}
        if cause in FIRST and window.end and placed.request.chain.size:
            cause = "head"
        if cause in CUTS and begin < end:
            values |= {"begin": begin, "end": end}
            text, here = window.text, begin - window.begin
            before, after = text[max(0, here - BEFORE) : here], text[here : here + AFTER]
            difference = {"position": begin, "before": before, "after": after}
    if cause == "head":
        begin, chain = int(values["begin"]), placed.request.chain
        token = begin if placed.request.ids else begin * prompt // chain.size
        place = bisect_right(_boundaries(chain), begin) + 1
        values |= {"message": place, "token": token, "evaluated": prompt - cached}
    return Reason(cause, values, difference)


def window_of(text: str, sums: Sequence[int], all_earlier: Iterable[Earlier]) -> Window | None:
    """That of the earlier prompt that is most like this one, which has these checksums."""
    prompts = [sums, *map(_SUMS, all_earlier)]
    if prompts.count(sums) == len(prompts):
        return None
    pieces = [_first_difference(sums, earlier) for earlier in prompts[1:]]
    piece = max(pieces, default=-1)
    if piece < 0:
        return None
    at, begin = PIECE * piece, max(0, PIECE * piece - BEFORE)
    alike = compress(prompts[1:], map(piece.__eq__, pieces))
    end = _end_of_difference(text, piece, alike)
    times = [*starmap(_first_difference, pairwise(prompts))].count(piece)
    return Window(at, begin, text[begin : at + PIECE + AFTER], end, times, len(pieces))


def _first_difference(sums: Sequence[int], other: Sequence[int]) -> int:
    return -1 if sums == other else next(compress(count(), map(ne, sums, other)), -1)


def _end_of_difference(text: str, piece: int, all_earlier: Iterable[Sequence[int]]) -> int:
    """Where a text that differs from earlier ones in this piece is soon the same as one of them
    again, 0 if nowhere near, or if so little follows that it costs little. Takes 0.1 ms."""
    if len(text) < PIECE * (piece + SHORT + SAME):
        return 0
    begin = max(0, PIECE * (piece + 1) - SHIFT)
    near = text[begin : PIECE * (piece + SHORT) + SHIFT]
    places = range(len(near) - PIECE, -1, -1)  # the first place of a checksum counts
    starts = {hash(near[n : n + PIECE]): n for n in places}
    for earlier in all_earlier:
        for following in range(piece + 1, piece + SHORT):
            sums = earlier[following : following + SAME]
            if len(sums) == SAME and (n := starts.get(sums[0])) is not None:
                end = begin + n
                if checksums(text[end : end + SAME * PIECE]) == sums:
                    return end
    return 0


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


def _of_loss(placed: Placement) -> tuple[str, dict[str, str | float]] | None:
    if (loss := placed.loss) is None:
        return None
    passed = placed.at - loss.at
    seconds = round(passed) if passed >= 1 else max(0.001, round(passed, 3))
    values = dict[str, str | float](backend=loss.backend, slot=loss.slot, slots=loss.slots)
    values.update(seconds=seconds, time=duration(seconds))
    by = "side_job" if loss.side_job else "own"
    by = by if loss.key == placed.request.key else "key"
    return (f"evicted_{by}" if loss.why == "evicted" else loss.why), values


def _of_earlier(
    placed: Placement, template: str, all_earlier: Iterable[Earlier]
) -> tuple[str, dict[str, str | float]]:
    chain = placed.request.chain
    ends = _boundaries(chain)
    for earlier in all_earlier:
        before, agrees = _boundaries(earlier.chain), agreement(chain, earlier.chain)
        if not before or len(ends) <= len(before) or agrees >= before[-1]:
            continue  # another conversation, or nothing has changed
        if earlier.template != template:
            return "template", {}
        if agrees >= before[0] and (placed.request.session or 2 * agrees > before[-1]):
            return "changed", {"begin": agrees}
        place = bisect_right(before, agrees)  # of the message that differs
        if agrees >= before[0] and place + 1 < len(before) and _is_same(ends, before, place):
            return "changed", {"begin": agrees}
        shift = ends[0] - before[0]
        is_same = _is_same(ends, before, 0)
        if agrees < before[0] and is_same and (len(before) > 1 or not shift):
            # Its other messages are as long as those of the earlier prompt, and there are more.
            end = next(end for end in chain.ends if end > agrees)
            return "head", {"begin": agrees, "end": end}
    if placed.turns:
        return "unknown", {}
    if placed.fresh and placed.replaced:
        return "fresh", {}
    return ("unmatched" if len(ends) > OPENING else "new"), {}


def _is_same(ends: Sequence[int], before: Sequence[int], place: int) -> bool:
    """Whether all messages but the one at this place are as long as those of the earlier prompt."""
    shift = ends[place] - before[place]
    moved = [*before[:place], *(end + shift for end in before[place:])]
    return moved == [*ends[: len(before)]]


def _boundaries(chain: Chain) -> list[int]:
    """The ends of its messages: those of blocks are the same in all prompts."""
    return [end for end in chain.ends[: chain.turn] if end % BLOCK]
