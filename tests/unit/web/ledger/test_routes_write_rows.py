"""Every route that asks a model writes one row for each request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flask import Flask

from proxy.backends.driver import Capabilities, Input
from proxy.core.task import Embedded, Ranked
from proxy.errors import BackendFailed
from proxy.runtime.cancel import Cancel
from proxy.store.ledger_rows import LedgerRow
from proxy.web.routes import OTHER
from tests.fakes import CAPS, ScriptedDriver, ledger_of, make_app, say, services_of, wait_until
from tests.fuzz.seeds import bodies
from tests.unit.web.test_pages_chat import KEYED

# Endpoints that ask a model, as far as the bodies of the fuzzers reach it. Others that do are
# found by the test.
KNOWN = {
    "openai.chat_completions",
    "openai.completions",
    "openai.both_completions",
    "responses.create",
    "responses.compact",
    "anthropic.messages",
    "ollama.chat_",
    "ollama.generate_",
    "glm.chat",
    "glm.chat_stream",
    "glm.langchain",
    "mcp.answer",
    "native.completion",
    "native.infill",
    "embeddings.openai_",
    "embeddings.ollama_",
    "embeddings.ollama_older",
    "glm.embedding",
    "embeddings.ranked",
    "chatchat.chat",
    "chatchat.fastchat",
    "chatchat.completion",
    "chatchat.embed_texts",
}

BODIES = {
    "responses.compact": [{"model": "m", "input": "Hi"}]
}  # of endpoints without a golden file


class Everything(ScriptedDriver):
    """A backend that answers everything; `asked` counts how often."""

    def __init__(self) -> None:
        caps = msgspec.structs.replace(
            CAPS, infill=True, embeddings=True, queues=True, modern_sampling=True
        )
        super().__init__(say("Hel", "lo"), caps)
        self.asked = 0

    def stream(self, *args: Any) -> Any:
        self.asked += 1
        return super().stream(*args)

    def embed(self, inputs: Sequence[Input], caps: Capabilities, cancel: Cancel) -> Embedded:
        self.asked += 1
        return Embedded(tuple((0.5,) for _ in inputs), 3 * len(inputs))

    def rerank(
        self, query: str, documents: Sequence[str], caps: Capabilities, cancel: Cancel
    ) -> Ranked:
        self.asked += 1
        return Ranked(tuple(0.5 for _ in documents), 3)


@pytest.fixture
def driver() -> Everything:
    return Everything()


@pytest.fixture
def app(driver: Everything, tmp_path: Path) -> Flask:
    return make_app(driver, data=str(tmp_path), chatchat=True)


def rows(app: Flask) -> list[LedgerRow]:
    return list(ledger_of(app).rows(0, 1 << 60))


def _posts(app: Flask) -> Iterator[tuple[str, str]]:
    for rule in app.url_map.iter_rules():
        if "POST" in (rule.methods or ()) and not rule.arguments:
            yield rule.endpoint, rule.rule


def test_each_request_that_asks_a_model_has_one_row(app: Flask, driver: Everything) -> None:
    client = app.test_client()
    asking = set()
    for endpoint, path in _posts(app):
        for body in BODIES.get(endpoint) or bodies(endpoint)[:8]:
            if "background" in body:  # asks after its answer: the test below has one
                continue
            count, before = driver.asked, len(rows(app))
            answer = client.post(path, json=body, headers=KEYED)
            answer.get_data()
            answer.close()
            wait_until(lambda: not services_of(app).observer.running)
            made = rows(app)[before:]
            if driver.asked > count:
                asking.add(endpoint)
                assert len(made) == 1, f"{endpoint} wrote {len(made)} rows"
                (row,) = made
                assert row.api != OTHER, f"{path} has no API"
                assert row.model == "scripted"
                assert row.prompt > 0
                assert row.outcome in ("ok", "invalid_output") or answer.status_code != 200
            else:
                well = [row for row in made if row.outcome == "ok"]
                assert well == [], f"{endpoint} wrote a row without asking a model"
    assert asking >= KNOWN


def test_answer_of_the_chat_page_has_a_row(app: Flask) -> None:
    client = app.test_client()
    api = "/pages/api/chat"
    made = client.post(f"{api}/conversations", json={}, headers=KEYED).get_json()
    reply = client.post(f"{api}/conversations/{made['id']}/ask", json={"text": "Hi"}, headers=KEYED)
    assert reply.status_code == 201
    wait_until(lambda: len(rows(app)) == 1)
    (row,) = rows(app)
    assert (row.api, row.outcome, row.completion) == ("pages", "ok", 3)


def test_background_response_has_one_row(app: Flask) -> None:
    body = {"input": "Hi", "background": True}
    assert app.test_client().post("/v1/responses", json=body).status_code == 200
    wait_until(lambda: len(rows(app)) == 1)
    (row,) = rows(app)
    assert (row.api, row.outcome, row.completion) == ("responses", "ok", 3)


def test_failed_and_refused_requests_have_a_row(app: Flask, driver: Everything) -> None:
    client = app.test_client()
    driver.script = [BackendFailed("out of memory")]
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    assert client.post("/v1/chat/completions", json=body).status_code == 502
    assert client.post("/v1/chat/completions", json={"messages": 1}).status_code == 400
    failed, refused = rows(app)
    assert failed.outcome == BackendFailed.code
    assert refused.outcome not in ("ok", "cancelled")
    assert (refused.prompt, refused.completion) == (0, 0)


def test_usage_is_recorded_unless_it_is_turned_off_or_has_no_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for expected, settings in (
        (True, {"ledger_days": 90}),  # in the data folder of the user
        (False, {"ledger_days": 0, "data": str(tmp_path)}),
        (False, {"ledger_days": 90, "data": str(tmp_path / "file" / "data")}),
    ):
        assert bool(services_of(make_app(ScriptedDriver(), **settings)).ledger) is expected
