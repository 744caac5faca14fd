"""Documents within requests: the model reads their texts, and no request is refused for one."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from proxy.knowledge.reading import ReadingFailed, ReadingLimits, whole_text
from proxy.web import attached
from proxy.web.ongoing import FairCap
from tests.documents import docx, pdf
from tests.fakes import ScriptedDriver, make_app

PDF = pdf("The bridge has 28 arches.", "It was built in 605.")


WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def block(data: bytes = PDF, media: str = "application/pdf", **more: Any) -> dict[str, Any]:
    source = {"type": "base64", "media_type": media, "data": encoded(data)}
    return {"type": "document", "source": source, **more}


def messages(*content: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    user = {"role": "user", "content": [*content, {"type": "text", "text": "How many?"}]}
    return "/v1/messages", {"max_tokens": 9, "messages": [user]}


def in_result(*content: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """As Claude Code sends a file that its tool Read has read."""
    use = {"type": "tool_use", "id": "t1", "name": "Read", "input": {"path": "a.pdf"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": list(content)}
    turns = [
        {"role": "user", "content": "Read it."},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]
    return "/v1/messages", {"max_tokens": 9, "messages": turns}


def file_part(data: bytes = PDF, name: str = "bridge.pdf") -> dict[str, Any]:
    return {"filename": name, "file_data": f"data:application/pdf;base64,{encoded(data)}"}


def chat(*parts: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    content = [*parts, {"type": "text", "text": "How many?"}]
    return "/v1/chat/completions", {"messages": [{"role": "user", "content": content}]}


def response(*parts: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    content = [*parts, {"type": "input_text", "text": "How many?"}]
    return "/v1/responses", {"input": [{"role": "user", "content": content}]}


def output(*parts: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    call = {"type": "function_call", "call_id": "c", "name": "read", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c", "output": list(parts)}
    return "/v1/responses", {"input": [{"role": "user", "content": "Read it."}, call, result]}


class House:
    def __init__(self, folder: Path) -> None:
        self.driver = ScriptedDriver()
        self.http: FlaskClient = make_app(self.driver, data=str(folder)).test_client()

    def send(self, request: tuple[str, dict[str, Any]], **more: Any) -> tuple[str, Sequence[str]]:
        """The prompt that the model got, and the warnings."""
        path, body = request
        answer = self.http.post(path, json={**body, **more})
        assert answer.status_code == 200, answer.text
        return str(self.driver.tasks[-1].prompt), answer.headers.getlist("x-slotproxy-warning")


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


REQUESTS = {
    "message": lambda: messages(block(title="bridge.pdf")),
    "tool result": lambda: in_result(block()),
    "chat": lambda: chat({"type": "file", "file": file_part()}),
    "response": lambda: response({"type": "input_file", **file_part()}),
    "output": lambda: output({"type": "input_file", **file_part()}),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_model_reads_a_pdf(house: House, name: str) -> None:
    prompt, warnings = house.send(REQUESTS[name]())
    for text in ("[page 1]", "The bridge has 28 arches.", "[page 2]", "It was built in 605."):
        assert text in prompt
    assert not warnings


@pytest.mark.parametrize("name", REQUESTS)
def test_a_pdf_that_cannot_be_read_leaves_a_note(
    house: House, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the extra `knowledge` is not installed."""
    monkeypatch.setattr("proxy.knowledge.reading.find_spec", lambda package: None)
    prompt, (warning,) = house.send(REQUESTS[name]())
    assert "[This document was left out: the gateway reads such files with the extra" in prompt
    assert warning.startswith("the document ") and ".pdf was left out: the gateway" in warning


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (block(b"%PDF-1.4 not really"), "the file is damaged"),
        (block(b"nothing", "application/zip"), "its format is not supported"),
        (block(b"words"), "this is not a valid pdf file"),
        ({"type": "document", "source": {"type": "url", "url": "https://example.org/a.pdf"}},
         "the gateway does not fetch it"),
        ({"type": "document", "source": {"type": "file", "file_id": "file-1"}}, "no such file"),
        ({"type": "document", "source": {"type": "base64"}}, "it has no content"),
    ],
)  # fmt: skip
def test_the_note_says_why(house: House, part: dict[str, Any], why: str) -> None:
    prompt, (warning,) = house.send(in_result(part))
    assert f"[This document was left out: {why}" in prompt
    assert why in warning


def test_texts_and_office_files_are_read_too(house: House) -> None:
    source = "def f():\n\n\n    return 1\n"
    prompt, warnings = house.send(
        messages(
            block(source.encode(), "text/plain", title="a.py"),
            block(docx("An arch."), WORD, title="b.docx"),
        )
    )
    assert f"a.py\n{source}" in prompt and "An arch." in prompt
    assert not warnings


def test_an_uploaded_file_is_read_by_its_id(house: House) -> None:
    form = {"purpose": "user_data", "file": (BytesIO(PDF), "bridge.pdf")}
    file_id = house.http.post("/v1/files", data=form).json["id"]
    prompt, warnings = house.send(response({"type": "input_file", "file_id": file_id}))
    assert "bridge.pdf\n\n[page 1]\nThe bridge has 28 arches." in prompt
    assert not warnings


def test_a_document_is_read_once_in_a_conversation(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = house.send(in_result(block()))
    monkeypatch.setattr(attached, "whole_text", lambda *_: pytest.fail("it was read again"))
    again, _ = house.send(in_result(block()))
    assert again == first
    path, body = in_result(block())
    counted = house.http.post(f"{path}/count_tokens", json=body)
    assert counted.json["input_tokens"] >= len(first)


def test_a_stored_response_is_continued_with_its_document(house: House) -> None:
    path, body = response({"type": "input_file", **file_part()})
    first = house.http.post(path, json=body).json["id"]
    prompt, warnings = house.send((path, {"input": "And when?", "previous_response_id": first}))
    assert "It was built in 605." in prompt
    assert not warnings


def test_a_conversation_keeps_the_text_of_a_document(house: House) -> None:
    _, body = response({"type": "input_file", **file_part()})
    item = {"type": "message", **body["input"][0]}
    made = house.http.post("/v1/conversations", json={"items": [item]})
    assert made.status_code == 200
    request = {"input": "How many?", "conversation": made.json["id"]}
    prompt, _ = house.send(("/v1/responses", request))
    assert "The bridge has 28 arches." in prompt


def test_more_than_the_most_new_documents_are_left_out(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attached, "MOST", 2)
    texts = [block(f"number {i}".encode(), "text/plain") for i in range(3)]
    prompt, (warning,) = house.send(messages(*texts))
    assert "number 1" in prompt and "number 2" not in prompt
    assert "too many new documents" in warning
    prompt, warnings = house.send(messages(*texts))
    assert "number 2" in prompt and not warnings, "the others are known by now"


def test_parts_of_a_wrong_type_are_left_to_the_parser(house: House) -> None:
    for request in (
        messages({"type": "document", "source": 5}),
        chat({"type": "file", "file": "a.pdf"}),
        ("/v1/messages", {"max_tokens": 9, "messages": [5]}),
    ):
        assert house.http.post(request[0], json=request[1]).status_code == 400


def test_length_of_a_text_is_bounded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.knowledge.reading.LONGEST_WHOLE", 10)
    prompt, (warning,) = house.send(messages(block(b"eleven char", "text/plain")))
    assert "eleven" not in prompt
    assert "it has more than 10 characters" in warning


def test_time_for_a_document_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ReadingFailed, match="takes too long"):
        whole_text("a.pdf", PDF, ReadingLimits(seconds=0))


def test_documents_read_at_a_time_are_bounded(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attached, "PATIENCE", 0.1)
    monkeypatch.setattr(FairCap, "take", lambda self, owner: False)
    path, body = chat({"type": "file", "file": file_part()})
    answer = house.http.post(path, json=body)
    assert answer.status_code == 429
    assert "too many documents" in answer.json["error"]["message"]
    assert answer.headers["Retry-After"] == "10"


def test_memory_of_texts_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attached, "CACHED", 800)
    house = House(tmp_path)
    times: list[str] = []

    def read(name: str, data: bytes, limits: ReadingLimits) -> str:
        times.append(name)
        return data.decode()

    monkeypatch.setattr(attached, "whole_text", read)
    for text, reads in ((b"x" * 50, 1), (b"x" * 101, 2)):
        request = messages(block(text, "text/plain"))
        times.clear()
        for _ in range(2):
            house.send(request)
        assert len(times) == reads


def test_length_of_a_name_is_bounded(house: House) -> None:
    prompt, _ = house.send(messages(block(b"words", "text/plain", title="x" * 300 + ".txt")))
    assert "x" * 196 + ".txt\nwords" in prompt
