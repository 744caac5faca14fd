"""Answers that call tools of MCP servers, over a scripted gateway and a scripted server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from proxy.accounts.rights import Permissions, Rights
from proxy.agent.functions import FAILED, RunnableTool, child_tool
from proxy.agent.toolbox import Remotes, Toolbox
from proxy.core.events import (
    ApprovalRequested,
    Event,
    Failed,
    Finished,
    ServerCall,
    Started,
    TextDelta,
    ToolsListed,
)
from proxy.core.mcp import Approval, McpServer, ToolFilter
from proxy.core.request import CompletionRequest, Message, Tool, ToolCall
from proxy.core.usage import Usage
from proxy.dialogue import loop
from proxy.dialogue.loop import ServerRunner
from proxy.errors import Forbidden, UpstreamFault, UpstreamTimeout
from proxy.gateway import Caller
from proxy.gateway.context import ANYBODY
from proxy.runtime.cancel import Cancel
from proxy.runtime.subprocesses import Children

from .test_searching import Scripted, call, done, events_of

SCHEMA: Mapping[str, Any] = {"type": "object"}
FREE = Approval(never=ToolFilter())
SERVER = McpServer(label="far", approval=FREE)
ASKED = CompletionRequest(messages=(Message(role="user", content="q"),), servers=(SERVER,))
GET = call("far__get", '{"a": 1}', TextDelta("Let me see. "))
ENDS: list[Event] = [TextDelta("Four."), done("stop")]
APPROVED = ServerCall(id="r1", label="far", name="get", arguments="{}", approval="r1")
LISTED = ToolsListed("far", tuple(Tool(name, "", SCHEMA) for name in ("get", "put")))


class Answers(Children):
    """Stands for the processes that speak to the server."""

    def __init__(self, answer: Any) -> None:
        super().__init__("none")
        self.answer = answer
        self.questions: list[Any] = []

    def ask(self, question: Any, cancel: Cancel, seconds: float) -> Any:
        self.questions.append(question)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Box(Toolbox):
    def __bool__(self) -> bool:
        return True

    def __init__(self, answer: Any = None, error: Exception | None = None) -> None:
        self.children = Answers(answer or {"text": "4"})
        self.error = error

    def of_server(self, name: str) -> list[RunnableTool]:
        if self.error is not None:
            raise self.error
        return [child_tool(Tool(method, "", SCHEMA), self.children) for method in ("get", "put")]


def run(
    gateway: Scripted,
    box: Box | None = None,
    request: CompletionRequest = ASKED,
    caller: Caller = ANYBODY,
    cancel: Cancel | None = None,
) -> list[Event]:
    cancel = cancel or Cancel()
    runner = ServerRunner(cancel, 0, box or Box(), Remotes(), request, caller)
    return events_of(gateway, runner, request, caller, cancel)


def asking(**fields: Any) -> CompletionRequest:
    server = msgspec.structs.replace(SERVER, **fields)
    return msgspec.structs.replace(ASKED, servers=(server,))


def test_call_is_made_and_the_model_continues() -> None:
    gateway, box = Scripted(GET, ENDS), Box()
    begun = ServerCall(id="c1", label="far", name="get", arguments='{"a": 1}')
    assert run(gateway, box) == [
        Started(),
        LISTED,
        TextDelta("Let me see. "),
        begun,
        msgspec.structs.replace(begun, over=True, output="4"),
        TextDelta("Four."),
        Finished(reason="stop", usage=Usage(20, 10)),
    ]
    assert box.children.questions == [{"call": "get", "arguments": {"a": 1}}]
    assert [tool.name for tool in gateway.requests[0].tools] == ["far__get", "far__put"]
    assert gateway.requests[1].messages[-1].content == "4"


def test_answer_ends_with_a_request_for_approval() -> None:
    box = Box()
    events = run(Scripted(GET), box, asking(approval=Approval()))
    assert events[-2:] == [
        ApprovalRequested("far", "get", '{"a": 1}'),
        Finished(reason="tool_calls", usage=Usage(10, 5)),
    ]
    assert box.children.questions == []


def approving() -> CompletionRequest:
    """A request whose client approves a call."""
    turn = (
        Message(role="assistant", tool_calls=(ToolCall("r1", "far__get", "{}"),)),
        Message(role="tool", tool_call_id="r1"),
    )
    return msgspec.structs.replace(
        asking(listed=True, approval=Approval()),
        messages=(*ASKED.messages, *turn),
        approved=(APPROVED,),
    )


def test_approved_call_is_made_before_the_model_begins() -> None:
    gateway = Scripted(ENDS)
    events = run(gateway, request=approving())
    begun = ServerCall(id="r1", label="far", name="get", arguments="{}", approval="r1")
    assert events[:3] == [Started(), begun, msgspec.structs.replace(begun, over=True, output="4")]
    assert events.count(Started()) == 1
    assert [message.content for message in gateway.requests[0].messages] == ["q", "", "4"]


def test_approved_call_of_a_tool_that_is_not_allowed_is_not_made() -> None:
    box = Box()
    request = msgspec.structs.replace(
        asking(allowed=ToolFilter(frozenset({"put"}))),
        approved=(APPROVED,),
    )
    events = run(Scripted(ENDS), box, request)
    (over,) = (event for event in events if isinstance(event, ServerCall) and event.over)
    assert over.error == "the tool is not available"
    assert box.children.questions == []


def test_only_allowed_tools_are_offered() -> None:
    gateway = Scripted(ENDS)
    run(gateway, request=asking(allowed=ToolFilter(frozenset({"put"}))))
    assert [tool.name for tool in gateway.requests[0].tools] == ["far__put"]


def test_only_tools_that_the_key_permits_are_offered() -> None:
    gateway = Scripted(ENDS)
    caller = Caller(key="k", may=Permissions((Rights(tools=("far__g*",)),)))
    run(gateway, caller=caller)
    assert [tool.name for tool in gateway.requests[0].tools] == ["far__get"]
    caller = Caller(key="k", may=Permissions((Rights(tools=("near__*",)),)))
    (failed,) = run(Scripted(ENDS), caller=caller)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, Forbidden)


def test_key_needs_the_url_of_a_server_among_its_tools() -> None:
    request = asking(url="https://mcp.example/a")
    for tools, message in ((("far__*",), "may not use the tool"), (("https://*",), "--mcp-url")):
        caller = Caller(key="k", may=Permissions((Rights(tools=tools),)))
        (failed,) = run(Scripted(ENDS), request=request, caller=caller)
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, Forbidden)
        assert message in failed.error.message


def test_required_server_that_cannot_be_listed_is_an_error() -> None:
    fault = UpstreamFault("gone")
    assert run(Scripted(ENDS), Box(error=fault), asking(required=True)) == [Failed(fault)]


def test_client_function_takes_precedence() -> None:
    gateway = Scripted(call("far__get", "{}"))
    request = msgspec.structs.replace(ASKED, tools=(Tool("far__get"),))
    events = run(gateway, request=request)
    assert not any(isinstance(event, ServerCall) for event in events)
    assert [tool.name for tool in gateway.requests[0].tools] == ["far__get", "far__put"]


@pytest.mark.parametrize(
    ("answer", "error", "code"),
    [
        ({"wrong": "no luck"}, "no luck", 0),
        ({"wrong": "bad arguments", "code": -32602}, "bad arguments", -32602),
        (UpstreamTimeout("too late"), "too late", loop.TIMED_OUT),
        (UpstreamFault("gone"), "gone", FAILED),
    ],
)
def test_failure_is_reported_and_the_model_continues(answer: Any, error: str, code: int) -> None:
    gateway = Scripted(GET, ENDS)
    events = run(gateway, Box(answer))
    (over,) = (event for event in events if isinstance(event, ServerCall) and event.over)
    assert (over.error, over.code, over.output) == (error, code, "")
    assert gateway.requests[1].messages[-1].content == f"Error: {error}"


def test_server_that_cannot_be_listed_leaves_the_model_without_its_tools() -> None:
    gateway = Scripted(ENDS)
    events = run(gateway, Box(error=UpstreamFault("gone")))
    assert events[1] == ToolsListed("far", error="gone")
    assert gateway.requests[0].tools == ()


def test_length_of_results_is_bounded() -> None:
    gateway, most = Scripted(GET, ENDS), loop.MOST_RESULT
    run(gateway, Box({"text": "x" * (most + 1)}))
    assert gateway.requests[1].messages[-1].content == "x" * most + "…"


def test_number_of_tools_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MOST_TOOLS", 1)
    gateway = Scripted(ENDS)
    run(gateway)
    assert [tool.name for tool in gateway.requests[0].tools] == ["far__get"]


@pytest.mark.parametrize("approved", [False, True])
def test_round_after_a_call_waits_for_its_slot_like_any_other(approved: bool) -> None:
    callers: list[Caller] = []

    class Gateway(Scripted):
        def answer(self, request: Any, cancel: Any, caller: Any = ANYBODY) -> Any:
            callers.append(caller)
            return super().answer(request, cancel, caller)

    request = approving() if approved else ASKED
    run(Gateway(*([ENDS] if approved else [GET, ENDS])), Box(), request, Caller(idle=True))
    assert [caller.idle for caller in callers] == ([False] if approved else [True, False])
