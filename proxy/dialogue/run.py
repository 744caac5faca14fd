"""A dialogue, as the stream of what happens in it.

Every word of a model comes through the gateway's one use case, so that queue, slots, cancelling and
counting hold here as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..cancel import Cancel
from ..core.events import Failed, Finished, ReasoningDelta, TextDelta
from ..core.invalid import Invalid
from ..core.request import CompletionRequest, Message
from ..errors import Unsupported
from ..gateway import Caller, Gateway, Info
from ..gateway.caller import ANYBODY
from ..prompting.layouts import Layouts
from .values import FOLDERS, DialogueEvent, DialogueRequest, Done, Reasoning, Text, Tick


class Running:
    """A dialogue under way: an iterator of its events, which must be closed. `info` tells of it for
    headers, the log and metrics."""

    def __init__(self, events: Iterator[DialogueEvent], info: Info, cancel: Cancel) -> None:
        self._events = events
        self._cancel = cancel
        self._first: DialogueEvent | None = None
        self.info = info

    def prime(self) -> None:
        """Wait until something happened, before a status is told. Raises what went wrong."""
        self._first = next(self._events)

    def __iter__(self) -> Iterator[DialogueEvent]:
        return self

    def __next__(self) -> DialogueEvent:
        first, self._first = self._first, None
        return first if first is not None else next(self._events)

    def close(self) -> None:
        """End it, wherever it is: model and tool are stopped. Safe to call again."""
        if not self.info.outcome:
            self._cancel.cancel()
            self.info.outcome = "cancelled"
        self._events.close()  # type: ignore[attr-defined]  # it is a generator


class Dialogues:
    """The four dialogues over one gateway."""

    def __init__(self, gateway: Gateway, layouts: Layouts) -> None:
        self._gateway = gateway
        self._layouts = layouts

    def run(
        self, request: DialogueRequest, cancel: Cancel | None = None, caller: Caller = ANYBODY
    ) -> Running:
        """Begin. `cancel` is whoever sees first that nobody listens any more; closing what is
        given back does the same. Raises Invalid; other errors come while it runs."""
        if not request.messages or request.messages[-1].role != "user":
            raise Invalid("messages", "must end with a user's")
        cancel = cancel or Cancel()
        info = Info()
        return Running(self._chat(request, cancel, caller, info), info, cancel)

    def _chat(
        self, request: DialogueRequest, cancel: Cancel, caller: Caller, info: Info
    ) -> Iterator[DialogueEvent]:
        if request.kind != "chat":
            raise Unsupported(f"the dialogue {request.kind} is not to be had", param="kind")
        said = self._layouts.lay(FOLDERS[request.kind], request.template, request.messages)
        answer = self._gateway.answer(asked(request, said), cancel, caller)
        info.model = answer.info.model
        try:
            for _, batch in answer:
                if not batch:
                    yield Tick()
                for event in batch:
                    match event:
                        case TextDelta(text=text) if text:
                            yield Text(text)
                        case ReasoningDelta(text=text):
                            yield Reasoning(text)
                        case Finished():
                            info.outcome = event.reason
                            yield Done(event.usage, event.timings, event.reason)
                        case Failed():
                            raise event.error
        finally:
            answer.close()
            told(info, answer.info)


def told(info: Info, round: Info) -> None:
    """Add what one completion was to what is told of the dialogue."""
    info.model, info.backend, info.slot = round.model, round.backend, round.slot
    info.queue_wait += round.queue_wait
    info.first_place = info.first_place or round.first_place
    info.placed = info.placed or round.placed
    info.first_token = info.first_token or round.first_token
    info.last_token += round.last_token
    info.continued += round.continued
    info.usage += round.usage
    info.warnings = tuple(dict.fromkeys((*info.warnings, *round.warnings)))
    info.outcome = info.outcome or round.outcome


def asked(request: DialogueRequest, said: tuple[Message, ...]) -> CompletionRequest:
    """A turn as a request for one completion, with these messages."""
    return CompletionRequest(
        model=request.model,
        messages=said,
        sampling=request.sampling,
        max_tokens=request.max_tokens,
        stop=request.stop,
        stream=True,
        session=request.session,
    )
