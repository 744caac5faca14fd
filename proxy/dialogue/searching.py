"""Answers that search on the way: the built-in tools of /v1/responses.

The model is offered the searches as functions, in addition to the client's own. If it calls a
search, the gateway makes it, sends it as an event, and the model continues with the results. If it
calls a function of the client, the answer ends with that call as usual. The model makes one call at
a time.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import msgspec

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
from ..runtime.cancel import Cancel
from .background import run_with_ticks
from .events import Bounds, Citation, add, arguments_of
from .evidence import CitationNumbers, context
from .finding import Finder, offered


class SearchingAnswer:
    """Replaces the gateway's Answer: yields (choice, batch), with the same `prime` and `close`."""

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
        self._searches = {search.name: search for search in request.searches}
        self._numbers = CitationNumbers()
        self._first: Batch | None = None
        self._batches = self._rounds()

    def prime(self) -> None:
        """Waits until the answer has begun. Raises its error."""
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
                turn = (
                    Message(role="assistant", content=round[0], tool_calls=(round[1],)),
                    Message(
                        role="tool", content=observed, name=round[1].name, tool_call_id=round[1].id
                    ),
                )
                # A forced search is forced only once.
                request = msgspec.structs.replace(
                    request, messages=(*request.messages, *turn), tool_choice=ToolChoice()
                )
        except GatewayError as error:
            self.info.outcome = error.code or error.type
            yield [Failed(error)]

    def _round(
        self, request: CompletionRequest, *, first: bool
    ) -> Generator[Batch, None, tuple[str, ToolCall] | None]:
        """Streams one round. Returns the text and the search call, if the model makes one."""
        before = self.info.usage
        answer = self._gateway.answer(request, self._cancel, self._caller)
        text: list[str] = []
        call: ToolCall | None = None
        client_calls: set[int] = set()
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
                        if call is not None and event.index not in client_calls:
                            call = msgspec.structs.replace(
                                call, arguments=call.arguments + event.arguments
                            )
                            continue
                        client_calls.add(event.index)
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
        """Makes a search: yields its events and returns the text for the model."""
        search = self._searches[call.name]
        query = _query(call)
        yield [Searched(search.kind, query)]
        seconds = self._bounds.tool_seconds
        work = run_with_ticks(
            lambda cancel: self._found(search, query, cancel), self._cancel, seconds, self._interval
        )
        try:
            while True:
                try:
                    next(work)
                except StopIteration as finished:
                    cited, _ = self._numbers.add(finished.value)
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
            Found(
                number=citation.number,
                title=citation.title,
                text=citation.text,
                url=citation.url,
                file_id=citation.document_id,
                score=citation.score,
            )
            for citation in cited
        )
        yield [Searched(search.kind, query, over=True, found=found)]
        return context(cited) or "No results."

    def _found(self, search: Search, query: str, cancel: Cancel) -> list[Citation]:
        return self._finder.result(search, self._owner, query, cancel) if query else []


def _query(call: ToolCall) -> str:
    query = (arguments_of(call) or {}).get("query")
    return query.strip() if isinstance(query, str) else ""
