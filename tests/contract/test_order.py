"""A whole answer has its parts in the order of the stream: reasoning, text, searches, calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.apis import anthropic
from proxy.apis.response_meta import ResponseMeta
from proxy.apis.responses import answer as responses
from proxy.apis.responses.request import parse as parse_response
from proxy.core.events import (
    ApprovalRequested,
    Batch,
    Citation,
    ReasoningDelta,
    Searched,
    ServerCall,
    Started,
    TextDelta,
    ToolsListed,
)
from proxy.core.fold import fold
from proxy.core.request import CompletionRequest
from proxy.errors import UpstreamFault
from tests.contract import ears
from tests.contract.scripts import CALL, OTHER, SCRIPTS, end

META = ResponseMeta("resp_" + "0" * 32, 1, "tiny", "slotproxy", lambda: 1.0)
SEARCH = Searched("web", "arches")
FOUND = Citation(number=1, title="Bridges", text="28", url="https://example.org/")
SERVER: dict[str, Any] = {"id": "c", "label": "far", "name": "get", "arguments": '{"a":1}'}
ROUNDS: list[Batch] = [
    [Started()],
    [ToolsListed("far", ())],
    [ReasoningDelta("I should "), ReasoningDelta("search.")],
    [TextDelta("Let me see.")],
    [SEARCH],
    [],
    [Searched("web", "arches", over=True, found=(FOUND,))],
    [ReasoningDelta("There it is.")],
    [TextDelta("It has 28 [1]. ")],
    [ServerCall(**SERVER)],
    [ServerCall(**SERVER, over=True, output="4")],
    [TextDelta("And 4.")],
    CALL,
    OTHER,
    [ApprovalRequested("far", "put", "{}")],
]
FILE = Citation(number=2, title="guide.pdf", text="It is low.", document_id="file-1", score=0.5)
STEPS: dict[str, list[Batch]] = {
    "rounds": [*ROUNDS, [end("tool_calls")]],
    "a cut round": [*ROUNDS[:9], [end("length")]],
    "failures": [
        [Started(), ToolsListed("far", error="gone")],
        [ServerCall(**SERVER)],
        [ServerCall(**SERVER, over=True, error="no", code=-32001)],
        [SEARCH],
        [Searched("web", "arches", over=True, error="unavailable")],
        [TextDelta("x")],
        [end()],
    ],
    "citations": [
        [Started(), SEARCH],
        [Searched("web", "arches", over=True, found=(FOUND,))],
        [Searched("file", "tide")],
        [Searched("file", "tide", over=True, found=(FILE,))],
        [TextDelta("It is hi"), TextDelta("[1, 2] a[3] [x] [12345] 【1】")],
        [end()],
    ],
}
ANSWERS: dict[str, list[Batch]] = {
    **STEPS,
    **{
        name: [batch for _, batch in script.steps]
        for name, script in SCRIPTS.items()
        if script.reason is not None and {choice for choice, _ in script.steps} == {0}
    },
}


ENDS = ("response.completed", "response.incomplete")
INCLUDE = ["file_search_call.results", "web_search_call.action.sources"]
ASKED = parse_response({"input": "Hi", "include": INCLUDE}, (), frozenset({"web_search"}))
GOLDEN = Path(__file__).resolve().parents[1] / "cases" / "steps"


def stream(encoder: Any, name: str) -> bytes:
    return b"".join(encoder.encode(0, batch) for batch in ANSWERS[name])


def golden(dialect: str, name: str) -> tuple[bytes, Path]:
    encoder: Any = anthropic.Encoder(META, CompletionRequest())
    if dialect == "responses":
        encoder = responses.Encoder(META, ASKED, lambda _: None)
    return stream(encoder, name), GOLDEN / dialect / f"{name.replace(' ', '_')}.txt"


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("dialect", ["responses", "anthropic"])
def test_steps_have_their_golden_bytes(dialect: str, name: str) -> None:
    """`python -m tests.contract.test_order` writes the files."""
    data, path = golden(dialect, name)
    assert data.decode() == path.read_bytes().decode()


@pytest.mark.parametrize("name", ANSWERS)
def test_a_whole_response_is_the_end_of_its_stream_and_is_stored(name: str) -> None:
    stored: list[Any] = []
    data = stream(responses.Encoder(META, ASKED, stored.append), name)
    (last,) = [e["response"] for kind, e in ears.sse(data) if kind in ENDS]
    whole = responses.whole(META, ASKED, fold((0, batch) for batch in ANSWERS[name]))
    assert json.loads(json.dumps(whole)) == last
    assert stored == [last]


@pytest.mark.parametrize("name", ANSWERS)
def test_a_whole_message_has_the_blocks_of_its_stream(name: str) -> None:
    request = CompletionRequest()
    data = stream(anthropic.Encoder(META, request), name)
    blocks: list[dict[str, Any]] = []
    for _, event in ears.sse(data):
        if event["type"] == "content_block_start":
            blocks.append(event["content_block"])
        elif event["type"] == "content_block_delta":
            for field in ("text", "thinking"):
                blocks[-1][field] = blocks[-1].get(field, "") + event["delta"].get(field, "")
    whole = anthropic.reply(META, request, fold((0, batch) for batch in ANSWERS[name]))
    assert list(map(kind, whole["content"])) == list(filter(None, map(kind, blocks)))


def kind(block: dict[str, Any]) -> Any:
    """What tells blocks apart; nothing for one without text."""
    if block["type"] in ("text", "thinking"):
        field = block["type"]
        return (field, block[field]) if block[field] else None
    return block["type"], block.get("name"), block.get("id", block.get("tool_use_id"))


@pytest.mark.parametrize(
    ("begun", "item"), [(SEARCH, "web_search_call"), (ServerCall(**SERVER), "mcp_call")]
)
def test_a_step_that_fails_is_done_before_the_response_is(begun: Any, item: str) -> None:
    stored: list[Any] = []
    encoder = responses.Encoder(META, ASKED, stored.append)
    data = encoder.encode(0, [Started(), TextDelta("Hm."), begun])
    data += encoder.fail(UpstreamFault("it broke"))
    events = ears.sse(data)
    added = [e["item"]["id"] for kind, e in events if kind == "response.output_item.added"]
    done = [e["item"] for kind, e in events if kind == "response.output_item.done"]
    assert [part["id"] for part in done] == added
    assert (done[-1]["type"], done[-1]["status"]) == (item, "failed")
    kind, failed = events[-1]
    assert kind == "response.failed" and stored == [failed["response"]]
    assert [part["id"] for part in failed["response"]["output"]] == added


if __name__ == "__main__":
    for dialect in ("responses", "anthropic"):
        for name in STEPS:
            data, path = golden(dialect, name)
            path.write_bytes(data)
