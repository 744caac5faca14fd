"""How Chatchat tells what happens in a dialogue; the dialogue itself is scripted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from flask.testing import FlaskClient

from proxy.core.usage import Timings, Usage
from proxy.dialogue import (
    Citation,
    DialogueEvent,
    DialogueRequest,
    Done,
    Reasoning,
    Sources,
    Step,
    Text,
    Tick,
)
from proxy.errors import NotFound, UpstreamFault
from proxy.gateway import Info
from proxy.web.services import EXTENSION
from tests.fakes import ScriptedDriver, make_app

Script = Sequence[DialogueEvent | Exception]
DONE = Done(Usage(7, 3, 2), Timings(), "stop")
PAGE = Citation(1, "pump.pdf", "five years", "page 2", base_id="kb", document_id="doc 1")
WEB = Citation(2, "Pumps", "all about pumps", url="http://pumps.example/x")


class Dialogues:
    """Plays a script; `asked` is what it was asked, `closed` how many were closed."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[DialogueRequest] = []
        self.closed = 0

    def run(self, request: DialogueRequest, *_: Any) -> Any:
        self.asked.append(request)
        return Running(self)


class Running:
    def __init__(self, dialogues: Dialogues) -> None:
        self._dialogues = dialogues
        self.info = Info()

    def __iter__(self) -> Iterator[DialogueEvent]:
        for one in self._dialogues.script:
            if isinstance(one, Exception):
                raise one
            yield one

    def close(self) -> None:
        self._dialogues.closed += 1


def served(*script: DialogueEvent | Exception, **settings: Any) -> tuple[FlaskClient, Dialogues]:
    app = make_app(ScriptedDriver(), chatchat=True, **settings)
    dialogues = Dialogues(script)
    services = app.extensions[EXTENSION]
    app.extensions[EXTENSION] = dataclasses.replace(services, dialogues=dialogues)
    return app.test_client(), dialogues


def told(client: FlaskClient, path: str, body: dict[str, Any]) -> list[Any]:
    answer = client.post(path, json={"query": "q", "stream": True, **body})
    return [json.loads(chunk) for chunk in answer.response]


KNOWLEDGE = {"knowledge_base_name": "b", "score_threshold": 0.5, "top_k": 7}
SEARCH = {"search_engine_name": "duckduckgo", "split_result": True}


def test_sources_come_once_and_last() -> None:
    client, dialogues = served(Sources((PAGE,)), Text("Five"), Text(" years [1]"), DONE)
    documents = told(client, "/chat/knowledge_base_chat", KNOWLEDGE)
    assert [one.get("answer") for one in documents] == ["Five", " years [1]", "", None]
    (line,) = documents[-1]["docs"]
    assert line == (
        "Source [1] [pump.pdf, page 2](http://localhost/knowledge_base/download_doc?"
        "knowledge_base_name=kb&file_name=doc+1)\n\nfive years\n\n"
    )
    (asked,) = dialogues.asked
    assert (asked.kind, asked.bases, asked.top_k) == ("knowledge", ("b",), 7)
    assert asked.score_threshold == 0.75, "smaller is nearer there, larger here"
    assert dialogues.closed == 1


def test_an_address_stands_below_the_prefix() -> None:
    client, _ = served(Sources((PAGE,)), DONE, api_prefix="/llm")
    documents = told(client, "/llm/chat/knowledge_base_chat", KNOWLEDGE)
    assert "(http://localhost/llm/knowledge_base/download_doc?" in documents[-1]["docs"][0]


def test_a_result_of_a_search_has_its_own_address() -> None:
    client, dialogues = served(Sources((PAGE,)), Sources((WEB,)), Text("x"), DONE)
    documents = told(client, "/chat/search_engine_chat", SEARCH)
    assert "](http://pumps.example/x)" in documents[-1]["docs"][1]
    (asked,) = dialogues.asked
    assert (asked.kind, asked.engine, asked.split) == ("search", "duckduckgo", True)


def test_nothing_found_is_said() -> None:
    client, _ = served(Sources(()), Text("x"), DONE)
    documents = told(client, "/chat/file_chat", {"knowledge_id": "kb"})
    assert len(documents[-1]["docs"]) == 1


def test_an_agent_tells_thoughts_tools_and_what_it_answers() -> None:
    client, _ = served(
        Step("thought", text="Let me see."),
        Step("tool", "calculator", '{"expression": "2+3"}'),
        Tick(),
        Step("observation", "calculator", text="5"),
        Reasoning("hm"),
        Text("It is"),
        Text(" 5."),
        DONE,
    )
    documents = told(client, "/chat/agent_chat", {})
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
def test_a_base_that_is_not_there_is_told_in_the_wrapper(stream: bool) -> None:
    client, dialogues = served(NotFound("there is no knowledge base 'b'"))
    body = {"query": "q", **KNOWLEDGE, "stream": stream}
    answer = client.post("/chat/knowledge_base_chat", json=body)
    assert answer.status_code == 200
    assert answer.json == {"code": 404, "msg": "there is no knowledge base 'b'", "data": None}
    assert dialogues.closed == 1


def test_a_failure_in_the_midst_is_the_last_document() -> None:
    client, dialogues = served(Text("Fi"), UpstreamFault("it broke"))
    documents = told(client, "/chat/knowledge_base_chat", KNOWLEDGE)
    assert documents == [{"answer": "Fi"}, {"code": 502, "msg": "it broke", "data": None}]
    assert dialogues.closed == 1
