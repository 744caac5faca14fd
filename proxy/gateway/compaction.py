"""Sums up the oldest turns of a conversation that no longer fits the model's context.

The model writes the summary itself, before the answer. So much is summed up that half of the
context is free afterwards, and what does not fit one request is summed up in several. The head of
the prompt stays as it was, and a later request of the conversation finds the same summary: both
prompts then begin alike, and one evaluation of the shorter prompt serves until it is full again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Sequence
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from ..accounts.rights import Permissions
from ..backends.tokens import most_tokens
from ..core import conversation
from ..core.cache import BoundedCache, digest
from ..core.events import Compacted
from ..core.request import CompletionRequest, ToolChoice
from ..core.task import Task
from ..core.usage import Usage
from ..errors import Unsupported
from ..runtime.cancel import Cancel
from .answer import Answer, written
from .context import Caller, Choice, GatewayContext, Info

ROOM = 256  # tokens kept free for the answer
SHARE = 8  # of the context: a summary has at most one part of so many
MOST_STEPS = 8  # summaries written for one request
MOST_KEPT = 512  # summaries in memory
MOST_TEXT = 32_768  # characters of a summary


class Model(Protocol):
    """What a gateway does here: see `gateway.Gateway`."""

    context: GatewayContext
    summaries: BoundedCache[str]
    pictures: BoundedCache[str]
    vision: str

    def answer(self, request: CompletionRequest, cancel: Cancel, caller: Caller) -> Answer: ...

    def fits(
        self, request: CompletionRequest, room: int, cancel: Cancel, *, may: Permissions
    ) -> bool: ...

    def tasks(
        self, request: CompletionRequest, model: str, cancel: Cancel, may: Permissions
    ) -> list[Task]: ...


def limit_of(request: CompletionRequest, n_ctx: int) -> int:
    """The most tokens that the prompt of a request may have without a summary."""
    limit = n_ctx - min(request.max_tokens or ROOM, ROOM)
    return limit if request.compaction is None else min(limit, request.compaction.trigger)


def compact(
    gateway: Model,
    model: str,
    caller: Caller,
    cancel: Cancel,
    request: CompletionRequest,
    tasks: Sequence[Task],
    info: Info,
) -> Generator[Choice, None, tuple[list[Task], Compacted] | None]:
    """See `answer.Compact`: the tasks of the request with a summary in place of its oldest turns;
    None if it fits as it is, cannot be made to fit, or the size of its context or prompt is
    unknown. `tasks` are those of the whole request. The cost is added to `info`. Raises the errors
    of the summary's answer."""
    pool = gateway.context.registry.pool(model, caller.may.barred_tiers)
    n_ctx = max((backend.n_ctx for backend in pool), default=0)
    most, limit = n_ctx - min(request.max_tokens or ROOM, ROOM), limit_of(request, n_ctx)
    instructions = request.compaction.instructions if request.compaction is not None else ""
    # What a prompt has at most is known without counting it.
    if not n_ctx or (not tasks[0].backend_templates and most_tokens(tasks[0]) <= limit):
        return None
    work = _Work(
        gateway=gateway,
        caller=replace(caller, on_overflow="refuse"),
        cancel=cancel,
        info=info,
        n_ctx=n_ctx,
        limit=limit,
        longest=max(1, min(conversation.LONGEST, n_ctx // SHARE)),
        instructions=instructions,
    )
    try:
        if work.fits(request, limit):
            return None
    except Unsupported:
        return None
    messages = request.messages
    places = conversation.cuts(messages)
    seed = f"{caller.group}\0{model}\0{instructions}\0".encode("utf-8", "replace")
    keys = [digest(seed + beginning) for beginning in conversation.digests(messages)]
    earlier = ((place, gateway.summaries.get(keys[place])) for place in reversed(places))
    cut, summary = next(((place, text) for place, text in earlier if text is not None), (0, ""))
    before = info.usage
    for steps in range(MOST_STEPS, -1, -1):
        shorter = work.without(request, cut, summary)
        if cut and work.fits(shorter, limit):
            break
        left = [place for place in places if place > cut] if steps else []
        further = work.next_cut(request, left, cut, summary)
        if not further:
            # The client's trigger may be smaller than the head and the last turn: nothing more can
            # be cut.
            if cut and work.fits(shorter, most):
                break
            return None
        summary = yield from work.summary(request, further, cut, summary)
        if not summary:
            return None
        cut = further
        gateway.summaries.put(keys[cut], summary, 1)
    usage = info.usage
    cost = Usage(
        usage.prompt - before.prompt,
        usage.completion - before.completion,
        usage.cached - before.cached,
    )
    shorter_tasks = gateway.tasks(shorter, model, cancel, caller.may)
    return shorter_tasks, Compacted(cut - conversation.head_of(messages), summary, cost)


class _Work(Struct, frozen=True, kw_only=True):
    """The compaction of one request. Its prompt is to have `limit` of `n_ctx` tokens, and a summary
    at most `longest`."""

    gateway: Model
    caller: Caller
    cancel: Cancel
    info: Info
    n_ctx: int
    limit: int
    longest: int
    instructions: str

    def fits(self, request: CompletionRequest, limit: int) -> bool:
        return self.gateway.fits(request, self.n_ctx - limit, self.cancel, may=self.caller.may)

    def without(self, request: CompletionRequest, cut: int, summary: str) -> CompletionRequest:
        """The request with a summary of the turns before the cut; unchanged without a cut."""
        if not cut:
            return request
        messages = conversation.with_summary(request.messages, cut, summary)
        return replace(request, messages=messages)

    def next_cut(
        self, request: CompletionRequest, places: Sequence[int], cut: int, summary: str
    ) -> int:
        """The place up to which the next summary goes: so that half of the limit is free after it,
        or as far as one request for it can be. 0 if there is none."""
        if not places:
            return 0
        half = max(0, self.limit // 2 - self.longest)
        fitting = conversation.first_that_fits(
            request, places, lambda shorter: self.fits(shorter, half)
        )
        able = places[: places.index(fitting) + 1]

        def is_too_long(place: int) -> bool:
            summing = self._asking(request, place, cut, summary)
            return not self.fits(summing, self.n_ctx - self.longest)

        count = bisect_left(able, True, key=is_too_long)
        return able[count - 1] if count else 0

    def summary(
        self, request: CompletionRequest, place: int, cut: int, summary: str
    ) -> Generator[Choice, None, str]:
        """What the model writes about the turns before the place, "" if that is nothing. A model
        that calls a tool, or only thinks, is asked again without tools and thoughts."""
        summing = self._asking(request, place, cut, summary)
        plainer = replace(summing, tool_choice=ToolChoice("none"), reasoning_effort="none")
        for attempt in (summing, plainer):
            answer = self.gateway.answer(attempt, self.cancel, self.caller)
            if text := (yield from written(answer, self.info)):
                return text[:MOST_TEXT]
        return ""

    def _asking(
        self, request: CompletionRequest, place: int, cut: int, summary: str
    ) -> CompletionRequest:
        """The request for a summary of the turns before the place, of which those before the cut
        are summed up."""
        before = replace(request, messages=request.messages[:place])
        turns = conversation.plain(self.without(before, cut, summary))
        return conversation.asking(turns, self.longest, self.instructions)
