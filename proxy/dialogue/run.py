"""A dialogue, as the stream of what happens in it.

Every word of a model comes through the gateway's one use case, so that queue, slots, cancelling and
counting hold here as everywhere.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

import msgspec

from ..agent import Toolbox
from ..cancel import Cancel
from ..core.events import Event, Failed, Finished, ReasoningDelta, TextDelta
from ..core.invalid import Invalid
from ..core.request import CompletionRequest, Message
from ..errors import Forbidden, GatewayError
from ..gateway import Caller, Gateway, Info
from ..gateway.caller import ANYBODY
from ..prompting.layouts import Layouts
from .aside import aside
from .evidence import MOST_TURNS, Ledger, laid
from .finding import Finder
from .loop import Loop
from .searching import SearchingAnswer
from .values import (
    FOLDERS,
    Bounds,
    Citation,
    DialogueEvent,
    DialogueRequest,
    Done,
    Reasoning,
    Sources,
    Text,
    Tick,
    add,
)

ROOM = 256  # tokens left for the answer where documents may go to make room


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
        try:
            return first if first is not None else next(self._events)
        except GatewayError as error:
            self.info.outcome = error.code or error.type
            raise

    def close(self) -> None:
        """End it, wherever it is: model and tool are stopped. Safe to call again."""
        if not self.info.outcome:
            self._cancel.cancel()
            self.info.outcome = "cancelled"
        self._events.close()  # type: ignore[attr-defined]  # it is a generator


class Dialogues:
    """The four dialogues over one gateway. `tools` are the names an agent may use; `interval` is
    the seconds of silence after which a Tick comes, 0 for none."""

    def __init__(
        self,
        gateway: Gateway,
        layouts: Layouts,
        finder: Finder,
        toolbox: Toolbox,
        *,
        tools: Sequence[str] = (),
        bounds: Bounds | None = None,
        interval: float = 15.0,
    ) -> None:
        self._gateway = gateway
        self._layouts = layouts
        self._finder = finder
        self._toolbox = toolbox
        self._allowed = tuple(tools)
        self._bounds = bounds or Bounds()
        self._interval = interval

    @property
    def engines(self) -> tuple[str, ...]:
        """Names of the search engines that are set up."""
        return self._finder.web.engines if self._finder.web is not None else ()

    @property
    def searches(self) -> frozenset[str]:
        """Names of the searches that an answer can make on its way."""
        there = {"web_search": self._finder.web, "file_search": self._finder.stores}
        return frozenset(name for name, finds in there.items() if finds is not None)

    def searching(
        self, request: CompletionRequest, owner: str, cancel: Cancel, caller: Caller
    ) -> SearchingAnswer:
        """An answer that makes the searches of `request`. Raises ModelNotFound."""
        return SearchingAnswer(
            self._gateway,
            self._finder,
            request,
            owner,
            cancel,
            caller,
            self._bounds,
            self._interval,
        )

    def run(
        self, request: DialogueRequest, cancel: Cancel | None = None, caller: Caller = ANYBODY
    ) -> Running:
        """Begin. `cancel` is whoever sees first that nobody listens any more; closing what is
        given back does the same. Raises Invalid; other errors come while it runs."""
        if not request.messages or request.messages[-1].role != "user":
            raise Invalid("messages", "must end with a user's")
        if request.kind == "knowledge" and not request.bases:
            raise Invalid("bases", "must name one knowledge base at least")
        cancel = cancel or Cancel()
        info = Info()
        turn = _Turn(self, request, cancel, caller, info)
        return Running(turn.events(), info, cancel)


class _Turn:
    """One turn of a dialogue."""

    def __init__(
        self,
        of: Dialogues,
        request: DialogueRequest,
        cancel: Cancel,
        caller: Caller,
        info: Info,
    ) -> None:
        self._of = of
        self._gateway = of._gateway
        self._finder = of._finder
        self._request = request
        self._cancel = cancel
        self._caller = caller
        self._info = info

    def events(self) -> Iterator[DialogueEvent]:
        request = self._request
        if request.kind == "agent":
            yield from self._agent()
            return
        if request.kind == "chat":
            said = self._of._layouts.lay(FOLDERS["chat"], request.template, request.messages)
            completion = self._completion(said)
        else:
            found = yield from self._found()
            completion, cited = self._fitted(found)
            yield Sources(cited)
        for event in self._asked(completion):
            match event:
                case Tick():
                    yield event
                case TextDelta(text=text) if text:
                    yield Text(text)
                case ReasoningDelta(text=text):
                    yield Reasoning(text)
                case Finished():
                    self._info.outcome = event.reason
                    yield Done(event.usage, event.timings, event.reason)

    # a question to the model

    def _asked(self, completion: CompletionRequest) -> Iterator[Event | Tick]:
        answer = self._gateway.answer(completion, self._cancel, self._caller)
        self._info.model = answer.info.model
        try:
            for _, batch in answer:
                self._info.place = answer.info.place
                if not batch:
                    yield Tick()
                for event in batch:
                    if isinstance(event, Failed):
                        raise event.error
                    yield event
        finally:
            answer.close()
            add(self._info, answer.info)

    def _completion(self, said: tuple[Message, ...]) -> CompletionRequest:
        request = self._request
        return CompletionRequest(
            model=request.model,
            messages=said,
            sampling=request.sampling,
            max_tokens=request.max_tokens,
            stop=request.stop,
            stream=True,
            session=request.session,
        )

    # documents

    def _found(self) -> Generator[Tick, None, list[list[Citation]]]:
        """What each question finds, in order: given back."""
        request, finder = self._request, self._finder
        questions = [one.content for one in request.messages if one.role == "user"]
        *before, last = questions
        knows = request.kind == "knowledge"
        bases = finder.bases(request) if knows else []

        def find(cancel: Cancel) -> list[list[Citation]]:
            found: list[list[Citation]] = []
            for turn, question in enumerate(before):
                if turn >= MOST_TURNS:
                    found.append([])
                elif knows:
                    found.append(finder.documents(request, bases, question))
                else:
                    found.append(finder.pages(request, question, None))
            now = (
                finder.documents(request, bases, last)
                if knows
                else finder.pages(request, last, cancel)
            )
            return [*found, now]

        seconds = self._of._bounds.tool_seconds if knows else finder.searched().seconds + 2
        return (yield from aside(find, self._cancel, seconds, self._of._interval))

    def _fitted(
        self, found: Sequence[Sequence[Citation]]
    ) -> tuple[CompletionRequest, tuple[Citation, ...]]:
        """As many documents as there is room for: those of earlier questions go first, then those
        that fit the question least."""
        request = self._request
        *before, last = found
        none: list[list[Citation]] = [[] for _ in before]
        tries: list[list[Sequence[Citation]]] = [[*found]]
        if any(before):
            tries.append([*none, last])
        most = len(last) // 2
        while most:
            tries.append([*none, last[:most]])
            most //= 2
        for one in tries:
            said, cited = laid(
                self._of._layouts, FOLDERS[request.kind], request.template, request.messages, one
            )
            completion = self._completion(said)
            if self._fits(completion):
                break
        return completion, cited

    def _fits(self, completion: CompletionRequest) -> bool:
        gateway = self._gateway
        model, _ = gateway.registry.resolve(completion.model)
        n_ctx = max((b.n_ctx for b in gateway.registry.pool(model)), default=0)
        room = min(completion.max_tokens or ROOM, ROOM)
        # A token has a byte at least: what is short is not counted.
        size = sum(len(one.content.encode()) + ROOM for one in completion.messages)
        return size + room <= n_ctx or gateway.fits(completion, room, self._cancel)

    # an agent

    def _agent(self) -> Iterator[DialogueEvent]:
        of, request = self._of, self._request
        told: list[Sources] = []
        tools = yield from aside(
            lambda _: {
                **of._toolbox.tools(),
                **self._finder.tools(request, of._allowed, Ledger(), told),
            },
            self._cancel,
            of._bounds.seconds,
            of._interval,
        )
        if request.tools is not None:
            tools = {name: tool for name, tool in tools.items() if name in request.tools}
        if not tools:
            raise Forbidden("an agent has no tools here: the setting is --tools")
        offered = tuple(tool.tool for tool in tools.values())
        said = of._layouts.lay(FOLDERS["agent"], request.template, request.messages, tools=offered)
        completion = msgspec.structs.replace(
            self._completion(said), tools=offered, parallel_tool_calls=False
        )
        loop = Loop(
            self._asked,
            tools,
            told,
            request.bounds or of._bounds,
            self._cancel,
            self._gateway.clock,
            of._interval,
        )
        for event in loop.run(completion):
            if isinstance(event, Done):
                self._info.outcome = event.finish_reason
            yield event
