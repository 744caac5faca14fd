"""Chatchat's stream of a scripted dialogue."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from flask.testing import FlaskClient
from msgspec.structs import replace

from proxy.core.events import Citation, Finished, ReasoningDelta, TextDelta
from proxy.core.usage import Usage
from proxy.dialogue.events import (
    DialogueEvent,
    DialogueRequest,
    DialogueStep,
    Sources,
    Tick,
)
from proxy.errors import NotFound
from proxy.gateway import Info
from proxy.web.services import EXTENSION
from tests.fakes import ScriptedDriver, make_app

Script = Sequence[DialogueEvent | Exception]
DONE = Finished(reason="stop", usage=Usage(7, 3, 2))
PAGE = Citation(
    number=1,
    title="pump [a].pdf",
    text="five years",
    place="page 2",
    base_id="kb",
    document_id="doc 1",
)
WEB = Citation(number=2, title="Pumps", text="all about pumps", url="http://pumps.example/x")


class Dialogues:
    """Plays a script; `requests` records the calls, `closed` counts closed dialogues."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[DialogueRequest] = []
        self.closed = 0

    def run(self, request: DialogueRequest, *_: Any) -> Any:
        self.requests.append(request)
        return Running(self)


class Running:
    def __init__(self, dialogues: Dialogues) -> None:
        self._dialogues = dialogues
        self.info = Info()

    def __iter__(self) -> Iterator[DialogueEvent]:
        for event in self._dialogues.script:
            if isinstance(event, Exception):
                raise event
            yield event

    def close(self) -> None:
        self._dialogues.closed += 1


def served(*script: DialogueEvent | Exception, **settings: Any) -> tuple[FlaskClient, Dialogues]:
    app = make_app(ScriptedDriver(), chatchat=True, **settings)
    dialogues = Dialogues(script)
    services = app.extensions[EXTENSION]
    app.extensions[EXTENSION] = replace(services, dialogues=dialogues)
    return app.test_client(), dialogues


def streamed(client: FlaskClient, path: str, body: dict[str, Any]) -> list[Any]:
    answer = client.post(path, json={"query": "q", "stream": True, **body})
    return [json.loads(chunk) for chunk in answer.response]


KNOWLEDGE = {"knowledge_base_name": "b", "score_threshold": 0.5, "top_k": 7}
SEARCH = {"search_engine_name": "duckduckgo", "split_result": True}


def test_sources_are_sent_once_at_the_end() -> None:
    client, dialogues = served(Sources((PAGE,)), TextDelta("Five"), TextDelta(" years [1]"), DONE)
    documents = streamed(client, "/chat/knowledge_base_chat", KNOWLEDGE)
    assert [document.get("answer") for document in documents] == ["Five", " years [1]", "", None]
    (line,) = documents[-1]["docs"]
    assert line == (
        "Source [1] [pump (a).pdf, page 2](http://localhost/knowledge_base/download_doc?"
        "knowledge_base_name=kb&file_name=doc+1)\n\nfive years\n\n"
    )
    (request,) = dialogues.requests
    assert (request.kind, request.bases, request.top_k) == ("knowledge", ("b",), 7)
    assert request.score_threshold == 0.75, "smaller is nearer there, larger here"
    assert dialogues.closed == 1


def test_source_url_includes_the_prefix() -> None:
    client, _ = served(Sources((PAGE,)), DONE, api_prefix="/llm")
    documents = streamed(client, "/llm/chat/knowledge_base_chat", KNOWLEDGE)
    assert "(http://localhost/llm/knowledge_base/download_doc?" in documents[-1]["docs"][0]


def test_web_search_source_has_its_own_url() -> None:
    client, dialogues = served(Sources((PAGE,)), Sources((WEB,)), TextDelta("x"), DONE)
    documents = streamed(client, "/chat/search_engine_chat", SEARCH)
    assert "](http://pumps.example/x)" in documents[-1]["docs"][1]
    (request,) = dialogues.requests
    assert (request.kind, request.engine) == ("search", "duckduckgo")


def test_empty_search_result_is_reported() -> None:
    client, _ = served(Sources(()), TextDelta("x"), DONE)
    documents = streamed(client, "/chat/file_chat", {"knowledge_id": "kb"})
    assert len(documents[-1]["docs"]) == 1


def test_agent_stream_has_thoughts_tools_and_answer() -> None:
    client, _ = served(
        DialogueStep("thought", text="Let me see."),
        DialogueStep("tool", "calculator", '{"expression": "2+3"}'),
        Tick(),
        DialogueStep("observation", "calculator", text="5"),
        ReasoningDelta("hm"),
        TextDelta("It is"),
        TextDelta(" 5."),
        DONE,
    )
    documents = streamed(client, "/chat/agent_chat", {})
    assert documents == [
        {"answer": "Let me see."},
        {"answer": ""},
        {"tools": ["Tool: calculator", 'Input: {"expression": "2+3"}', "Output: 5"]},
        {"final_answer": "It is"},
        {"final_answer": " 5."},
        {"final_answer": ""},
    ]
    whole = client.post("/chat/agent_chat", json={"query": "q"}).json
    assert whole["final_answer"] == "It is 5." and whole["answer"] == "Let me see."
    assert whole["tools"][0] == "Tool: calculator"


@pytest.mark.parametrize("stream", [True, False])
def test_missing_base_is_reported_in_the_wrapper(stream: bool) -> None:
    client, dialogues = served(NotFound("no such knowledge base: 'b'"))
    body = {"query": "q", **KNOWLEDGE, "stream": stream}
    answer = client.post("/chat/knowledge_base_chat", json=body)
    assert answer.status_code == 200
    assert answer.json == {"code": 404, "msg": "no such knowledge base: 'b'", "data": None}
    assert dialogues.closed == 1
