"""Runs dialogues and streams their events.

Every completion goes through the gateway, so queueing, slots, cancellation and accounting apply as
usual.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from msgspec import Struct, field

from ..agent.functions import RunnableTool
from ..agent.toolbox import Remotes, Toolbox
from ..config import AgentConfig
from ..core.events import Citation, Failed, Finished, ReasoningDelta, ServerCall, TextDelta
from ..core.request import CompletionRequest, Message
from ..errors import Forbidden, GatewayError, InvalidParameter
from ..gateway import Answer, Caller, Gateway, Info
from ..gateway.context import ANYBODY
from ..prompting.template.dialogues import Layouts
from ..runtime.cancel import Cancel
from .events import (
    FOLDERS,
    DialogueEvent,
    DialogueRequest,
    DialogueStep,
    Sources,
    Tick,
    add,
)
from .finding import MOST_TURNS, WEB, CitationNumbers, Finder, insert_documents
from .loop import AgentRunner, Runner, SearchRunner, ServerRunner, ToolAnswer, run_with_ticks

T = TypeVar("T")
HOLD = 160
ROOM = 256  # minimum tokens for the answer before documents are dropped


class Dialogues(Struct, eq=False):
    """The four kinds of dialogue on one gateway. `tools` are the names an agent may use. `interval`
    is the seconds of silence before a Tick, 0 for none. `preset` changes each request as the table
    of its model says."""

    gateway: Gateway
    layouts: Layouts
    finder: Finder
    toolbox: Toolbox
    tools: Sequence[str] = ()
    remotes: Remotes = field(default_factory=Remotes)
    bounds: AgentConfig = field(default_factory=AgentConfig)
    interval: float = 15.0
    preset: Callable[[CompletionRequest, Caller], CompletionRequest] = lambda request, _: request

    @property
    def engines(self) -> tuple[str, ...]:
        return self.finder.web.engines if self.finder.web is not None else ()

    @property
    def searches(self) -> frozenset[str]:
        """Names of the searches that an answer can make."""
        sources = {"web_search": self.finder.web, "file_search": self.finder.stores}
        return frozenset(name for name, source in sources.items() if source is not None)

    def published(self, owner: str, caller: Caller) -> dict[str, RunnableTool]:
        """The tools that the caller may call itself, by name: the searches, and those of `--tools`,
        of an MCP server as `server__tool`. May wait for servers."""
        finder = self.finder.within(caller.may)
        tools = {**self.toolbox.tools(published=True), **finder.published(owner)}
        return {name: tool for name, tool in tools.items() if caller.may.permits_tool(name)}

    def call(
        self,
        tool: RunnableTool,
        arguments: Mapping[str, Any],
        cancel: Cancel,
        interval: float,
        tick: Callable[[], T],
    ) -> Generator[T, None, str]:
        """Returns the text of a published tool, within the time limit of tools, and yields a tick
        every `interval` seconds until then, or none if that is 0. Raises what the tool raises,
        UpstreamTimeout and Cancelled."""
        seconds = self.bounds.tool_timeout
        return run_with_ticks(
            lambda own: tool.call(arguments, own, seconds), cancel, seconds, interval, tick
        )

    def chat(self, request: DialogueRequest, caller: Caller) -> CompletionRequest:
        """What a plain chat asks the model."""
        messages = self.layouts.render(FOLDERS["chat"], request.template, request.messages)
        if request.begun:
            messages = (*messages, Message(role="assistant", content=request.begun))
        return self.completion(request, messages, caller)

    def completion(
        self, request: DialogueRequest, messages: tuple[Message, ...], caller: Caller
    ) -> CompletionRequest:
        """What a dialogue asks the model with these messages."""
        return self.preset(
            CompletionRequest(
                model=request.model,
                messages=messages,
                sampling=request.sampling,
                max_tokens=request.max_tokens,
                stream=True,
                session=request.session,
            ),
            caller,
        )

    def answer(
        self, request: CompletionRequest, owner: str, cancel: Cancel, caller: Caller
    ) -> ToolAnswer:
        """An answer that makes the searches of `request`, and calls to its MCP servers, itself.
        Raises ModelNotFound, and Forbidden for a search, or vector stores, that the caller may not
        use."""
        for search in request.searches:
            caller.may.check_tool(search.name)
        finder = self.finder.within(caller.may)
        if caller.may.bounds_knowledge:
            finder.check(request.searches, owner)
        interval = self.interval
        runners: list[Runner] = []
        if request.searches:
            searches = {search.name: search for search in request.searches}
            runners.append(SearchRunner(cancel, interval, finder, searches, owner))
        if request.servers:
            runners.append(
                ServerRunner(cancel, interval, self.toolbox, self.remotes, request, caller)
            )
        return ToolAnswer(self.gateway, runners, request, cancel, caller, self.bounds)

    def run(
        self, request: DialogueRequest, cancel: Cancel | None = None, caller: Caller = ANYBODY
    ) -> Running:
        """Starts a dialogue. Cancelling `cancel` or closing the result ends it. Raises
        InvalidParameter, and Forbidden for a web search that the caller may not use; other errors
        are raised while iterating."""
        if not request.messages or request.messages[-1].role != "user":
            raise InvalidParameter("messages", "must end with a user message")
        if request.kind == "knowledge" and not request.bases:
            raise InvalidParameter("bases", "must name at least one knowledge base")
        if request.begun and request.kind != "chat":
            raise InvalidParameter("kind", "must be chat: other answers cannot be continued")
        if request.kind == "search":
            caller.may.check_tool(WEB)
        return Running(self, request, cancel or Cancel(), caller)


class Running(Struct, eq=False, dict=True):
    """A running dialogue: an iterator of its events that must be closed. `info` has its statistics
    for headers, the log and metrics."""

    dialogues: Dialogues
    request: DialogueRequest
    cancel: Cancel
    caller: Caller

    def __post_init__(self) -> None:
        self.info = Info()
        self._gateway = self.dialogues.gateway
        self._finder = self.dialogues.finder.within(self.caller.may)
        self._events = self._run()

    def __iter__(self) -> Iterator[DialogueEvent]:
        return self

    def __next__(self) -> DialogueEvent:
        try:
            return next(self._events)
        except GatewayError as error:
            self.info.outcome = error.code or error.type
            raise

    def close(self) -> None:
        """Ends the dialogue and stops the model and tools. Idempotent."""
        if not self.info.outcome:
            self.cancel.cancel()
            self.info.outcome = "cancelled"
        self._events.close()

    def _run(self) -> Generator[DialogueEvent, None, None]:
        request = self.request
        if request.kind == "agent":
            yield from self._agent()
            return
        if request.kind == "chat":
            completion = self.dialogues.chat(request, self.caller)
        else:
            with self.info.timed("search"):
                by_question = yield from self._found()
            completion, cited = self._fitted(by_question)
            yield Sources(cited)
        answer = self._gateway.answer(completion, self.cancel, self.caller)
        yield from dialogue_events(answer, self.info)

    # documents

    def _found(self) -> Generator[Tick, None, list[list[Citation]]]:
        request, finder = self.request, self._finder
        questions = [m.content for m in request.messages if m.role == "user"]
        *before, last = questions
        knows = request.kind == "knowledge"
        owner, top_k = request.owner, request.top_k
        bases = finder.bases(owner, request.bases) if knows else []

        def sources(question: str, cancel: Cancel | None) -> list[Citation]:
            if knows:
                return finder.documents(owner, bases, question, top_k, request.score_threshold)
            return finder.pages(question, request.engine, top_k, cancel)

        def find(cancel: Cancel) -> list[list[Citation]]:
            earlier = [sources(question, None) for question in before[:MOST_TURNS]]
            return [*earlier, *([] for _ in before[MOST_TURNS:]), sources(last, cancel)]

        seconds = self.dialogues.bounds.tool_timeout if knows else finder.searched().longest
        return (yield from self._aside(find, seconds))

    def _aside(self, work: Callable[[Cancel], T], seconds: float) -> Generator[Tick, None, T]:
        return run_with_ticks(work, self.cancel, seconds, self.dialogues.interval, Tick)

    def _fitted(
        self, by_question: Sequence[Sequence[Citation]]
    ) -> tuple[CompletionRequest, tuple[Citation, ...]]:
        """The completion with as many documents as fit: drops those of earlier questions first,
        then the least relevant ones."""
        request = self.request
        *before, last = by_question
        none: list[Sequence[Citation]] = [[] for _ in before]
        tries = [by_question]
        if any(before):
            tries.append([*none, last])
        halvings = range(1, len(last).bit_length())
        tries += [[*none, last[: len(last) >> count]] for count in halvings]
        for citations in tries:
            messages, cited = insert_documents(
                self.dialogues.layouts,
                FOLDERS[request.kind],
                request.template,
                request.messages,
                citations,
            )
            completion = self.dialogues.completion(request, messages, self.caller)
            if self._fits(completion):
                break
        return completion, cited

    def _fits(self, completion: CompletionRequest) -> bool:
        gateway = self._gateway
        model, _ = gateway.registry.resolve(completion.model)
        may = self.caller.may
        n_ctx = max((b.n_ctx for b in gateway.registry.pool(model, may.barred_tiers)), default=0)
        room = min(completion.max_tokens or ROOM, ROOM)
        # A token has at least one byte, so short requests need no tokenizing.
        size = sum(len(message.content.encode()) + ROOM for message in completion.messages)
        return size + room <= n_ctx or gateway.fits(completion, room, self.cancel, may=may)

    # an agent

    def _agent(self) -> Iterator[DialogueEvent]:
        dialogues, request = self.dialogues, self.request
        sources: list[Sources] = []

        def find_tools(cancel: Cancel) -> dict[str, RunnableTool]:
            searches = self._finder.tools(request, dialogues.tools, CitationNumbers(), sources)
            return {**dialogues.toolbox.tools(), **searches}

        tools = yield from self._aside(find_tools, dialogues.bounds.timeout)
        if not tools:
            raise Forbidden("agent tools are not configured: set --tools")
        tools = {name: tool for name, tool in tools.items() if self.caller.may.permits_tool(name)}
        if not tools:
            raise Forbidden(
                "this API key may use none of the agent's tools: see its allowed_tools",
                code="tool_forbidden",
            )
        offered = tuple(tool.tool for tool in tools.values())
        messages = dialogues.layouts.render(
            FOLDERS["agent"], request.template, request.messages, tools=offered
        )
        answer = ToolAnswer(
            self._gateway,
            [AgentRunner(self.cancel, dialogues.interval, tools)],
            dialogues.completion(request, messages, self.caller),
            self.cancel,
            self.caller,
            dialogues.bounds,
            is_agent=True,
        )
        yield from dialogue_events(answer, self.info, HOLD, sources)


def dialogue_events(
    answer: Answer | ToolAnswer, info: Info, hold: int = 0, sources: list[Sources] | None = None
) -> Iterator[DialogueEvent]:
    """The events of an answer as those of a dialogue; tools append what they find to `sources`.
    Statistics go to `info`. Raises the error of an answer that failed.

    Text before a call is a thought, text without a call is the answer; only the end of a round
    tells which. Thoughts are short, so up to `hold` characters are held back, and longer text is
    streamed as part of the answer."""
    info.model = answer.info.model
    info.steps += (answer.info,)
    held, streams = "", False
    try:
        for _, batch in answer:
            info.place = answer.info.place
            if not batch:
                yield Tick()
            for event in batch:
                match event:
                    case TextDelta(text=text) if text:
                        held += text
                        if streams or len(held) > hold:
                            yield TextDelta(held)
                            held, streams = "", True
                    case ReasoningDelta():
                        yield event
                    case ServerCall(over=False):
                        if held:
                            yield DialogueStep("thought", text=held)
                        held, streams = "", False
                        yield DialogueStep("tool", event.name, event.arguments)
                    case ServerCall():
                        while sources:
                            yield sources.pop(0)
                        text = f"Error: {event.error}" if event.error else event.output
                        yield DialogueStep("observation", event.name, text=text)
                    case Finished():
                        if held:
                            yield TextDelta(held)
                        info.outcome = event.reason
                        yield event
                    case Failed():
                        raise event.error
    finally:
        answer.close()
        add(info, answer.info)
