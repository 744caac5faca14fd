"""An answer that searches on the way: the built-in tools of /v1/responses.

The model is offered the searches as functions beside the client's own. Where it calls one, the
search is made here, told as an event, and the model goes on with what was found; where it calls a
function of the client's, the answer ends with that call, as always. One call is made at a time.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import msgspec

from ..cancel import Cancel
from ..core.decoding import decoded
from ..core.events import (
    Batch,
    Event,
    Failed,
    Finished,
    Found,
    Searched,
    Started,
    TextDelta,
    ToolCallDelta,
)
from ..core.request import CompletionRequest, Message, Search, ToolCall, ToolChoice
from ..errors import Cancelled, GatewayError
from ..gateway import Caller, Gateway, Info
from .aside import aside
from .evidence import Ledger, context
from .finding import Finder, offered
from .values import Bounds, Citation, add


class SearchingAnswer:
    """Stands for the gateway's Answer: (choice, batch), primed and closed as that is."""

    def __init__(
        self,
        gateway: Gateway,
        finder: Finder,
        request: CompletionRequest,
        owner: str,
        cancel: Cancel,
        caller: Caller,
        bounds: Bounds,
        interval: float,
    ) -> None:
        self.request = request
        self.info = Info(model=gateway.registry.resolve(request.model)[1])
        self._gateway = gateway
        self._finder = finder
        self._owner = owner
        self._cancel = cancel
        self._caller = caller
        self._bounds = bounds
        self._interval = interval
        self._searches = {one.name: one for one in request.searches}
        self._ledger = Ledger()
        self._first: Batch | None = None
        self._batches = self._rounds()

    def prime(self) -> None:
        """Wait until the answer has begun. Raises what went wrong."""
        self._first = next(self._batches)
        for event in self._first:
            if isinstance(event, Failed):
                self.close()
                raise event.error

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        if self._first is not None:
            first, self._first = self._first, None
            yield 0, first
        for batch in self._batches:
            yield 0, batch

    def close(self) -> None:
        self._batches.close()
        if not self.info.outcome:
            self.info.outcome = "cancelled"

    def _rounds(self) -> Generator[Batch, None, None]:
        request = msgspec.structs.replace(
            self.request,
            tools=(*self.request.tools, *map(offered, self.request.searches)),
            parallel_tool_calls=False,
        )
        try:
            for left in range(self._bounds.rounds, 0, -1):
                if left == 1:
                    request = msgspec.structs.replace(request, tool_choice=ToolChoice("none"))
                round = yield from self._round(request, first=left == self._bounds.rounds)
                if round is None:
                    return
                observed = yield from self._made(round[1])
                said = (
                    Message("assistant", round[0], tool_calls=(round[1],)),
                    Message("tool", observed, round[1].name, tool_call_id=round[1].id),
                )
                # A forced search is forced once.
                request = msgspec.structs.replace(
                    request, messages=(*request.messages, *said), tool_choice=ToolChoice()
                )
        except GatewayError as error:
            self.info.outcome = error.code or error.type
            yield [Failed(error)]

    def _round(
        self, request: CompletionRequest, *, first: bool
    ) -> Generator[Batch, None, tuple[str, ToolCall] | None]:
        """What the model writes; a search it calls for, and the text before it, is given back."""
        before = self.info.usage
        answer = self._gateway.answer(request, self._cancel, self._caller)
        text: list[str] = []
        call: ToolCall | None = None
        theirs: set[int] = set()
        try:
            for _, batch in answer:
                out: list[Event] = []
                for event in batch:
                    if isinstance(event, Started) and not first:
                        continue
                    if isinstance(event, TextDelta):
                        text.append(event.text)
                    elif isinstance(event, ToolCallDelta):
                        if event.name in self._searches and call is None:
                            call = ToolCall(event.id, event.name, event.arguments)
                            continue
                        if call is not None and event.index not in theirs:
                            call = msgspec.structs.replace(
                                call, arguments=call.arguments + event.arguments
                            )
                            continue
                        theirs.add(event.index)
                    elif isinstance(event, Failed):
                        raise event.error
                    elif isinstance(event, Finished):
                        if call is not None and event.reason != "length":
                            continue
                        event = msgspec.structs.replace(event, usage=before + event.usage)
                        self.info.outcome = event.reason
                        call = None
                    out.append(event)
                if out or not batch:
                    yield out
        finally:
            answer.close()
            add(self.info, answer.info)
        return ("".join(text), call) if call is not None else None

    def _made(self, call: ToolCall) -> Generator[Batch, None, str]:
        """Make a search: its events, and what the model is told."""
        search = self._searches[call.name]
        query = _query(call)
        yield [Searched(search.kind, query)]
        seconds = self._bounds.tool_seconds
        work = aside(
            lambda cancel: self._found(search, query, cancel), self._cancel, seconds, self._interval
        )
        try:
            while True:
                try:
                    next(work)
                except StopIteration as over:
                    cited, _ = self._ledger.add(over.value)
                    break
                yield []
        except Cancelled:
            raise
        except GatewayError as error:
            yield [Searched(search.kind, query, over=True, failed=True)]
            return f"Error: {error.message}"
        finally:
            work.close()
        found = tuple(
            Found(one.number, one.title, one.text, one.url, one.document_id, one.score)
            for one in cited
        )
        yield [Searched(search.kind, query, over=True, found=found)]
        return context(cited) or "Nothing was found."

    def _found(self, search: Search, query: str, cancel: Cancel) -> list[Citation]:
        return self._finder.result(search, self._owner, query, cancel) if query else []


def _query(call: ToolCall) -> str:
    try:
        value = decoded(call.arguments or "{}")
    except ValueError:
        return ""
    query = value.get("query") if isinstance(value, dict) else None
    return query.strip() if isinstance(query, str) else ""
