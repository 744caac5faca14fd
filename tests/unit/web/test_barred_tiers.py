"""A key's barred tiers: their backends see no text of its requests, not even to count tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.backends.pools import Backend
from proxy.config import Settings
from proxy.config.routes import Place
from proxy.core.task import Tier
from tests.apps import app_on
from tests.fakes import ScriptedDriver, ScriptedRun, say, services_of, wait_until
from tests.unit.apis.test_context_edits import USES, trigger, used
from tests.unit.web.account_client import CHAT, KEYS, Http

MESSAGES = CHAT["messages"]


class Watched(ScriptedDriver):
    """A driver that records the texts and tokens that it is sent."""

    def __init__(self) -> None:
        super().__init__(say("Hello"))
        self.seen: list[Any] = []

    def stream(self, task: Any, slot: int, caps: Any, cancel: Any) -> ScriptedRun:
        self.seen.append(task.prompt)
        return super().stream(task, slot, caps, cancel)

    def tokenize(self, text: str, special: bool = False, cancel: Any = None) -> list[int]:
        self.seen.append(text)
        return super().tokenize(text, special, cancel)

    def detokenize(self, tokens: list[int]) -> str:
        self.seen.append(tokens)
        return super().detokenize(tokens)

    def prompt_ids(self, task: Any, cancel: Any = None) -> list[int] | None:
        self.seen.append(task.prompt)
        return super().prompt_ids(task, cancel)


class Route:
    """A route whose first tier is a cloud."""

    def __init__(self, folder: Path) -> None:
        self.cloud, self.own = Watched(), Watched()
        backends = [Backend("b0", "test://0", self.cloud), Backend("b1", "test://1", self.own)]
        for number, name in enumerate(("cloud", "own")):
            backends[number].place = Place("scripted", Tier(number, name, 10.0))
        settings = Settings(
            wait_for_backend=0.0, data=str(folder), file_keys=KEYS, admins=("ops",), wrong_keys=0
        )
        app = app_on(backends, settings)
        registry = services_of(app).gateway.registry
        wait_until(lambda: registry.settled)
        self.http = Http(app)
        self.cloud.seen.clear()

    def key(self, *barred: str) -> str:
        made: str = self.http.make(barred_tiers=list(barred), tpm_limit=100_000)["key"]
        return made


@pytest.fixture
def route(tmp_path: Path) -> Route:
    return Route(tmp_path)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/completions", {"prompt": [[1, "Hi"]]}),
        ("/v1/messages/count_tokens", {"messages": MESSAGES}),
        (
            "/v1/messages",
            {
                "messages": MESSAGES,
                "max_tokens": 8,
                "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
            },
        ),
        ("/v1/responses", {"input": "Hi" * 4000, "truncation": "auto"}),
        ("/v1/responses/input_tokens", {"input": "Hi"}),
        ("/v1/chat/completions/input_tokens", {"messages": MESSAGES}),
        ("/apply-template", {"messages": MESSAGES}),
        ("/tokenize", {"content": "Hi"}),
        ("/tokenize", {"prompt": "Hi"}),
        ("/detokenize", {"tokens": [72, 105]}),
    ],
)
def test_backend_of_a_barred_tier_sees_no_text(route: Route, path: str, body: Any) -> None:
    answer = route.http.post(path, route.key("cloud"), model="scripted", **body)
    assert answer.status_code != 403, answer.text
    assert route.cloud.seen == []
    assert route.own.seen


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/messages/count_tokens", {"messages": MESSAGES}),
        ("/apply-template", {"messages": MESSAGES}),
        ("/tokenize", {"content": "Hi"}),
        ("/detokenize", {"tokens": [72, 105]}),
    ],
)
def test_model_with_barred_tiers_only_is_forbidden(route: Route, path: str, body: Any) -> None:
    answer = route.http.post(path, route.key("cloud", "own"), model="scripted", **body)
    assert answer.status_code == 403, answer.text
    assert "barred_tiers" in answer.text
    assert route.cloud.seen == route.own.seen == []


def test_edits_of_a_forbidden_models_prompt_count_nothing(route: Route) -> None:
    key = route.http.make(models=["other"])["key"]
    edit = {"type": USES, "trigger": trigger(1), "keep": trigger(0, "tool_uses")}
    body = {"messages": [*MESSAGES, *used(0), *MESSAGES], "max_tokens": 8}
    edits = {"context_management": {"edits": [edit]}}
    answer = route.http.post("/v1/messages", key, model="scripted", **body, **edits)
    assert answer.status_code == 403, answer.text
    assert route.cloud.seen == route.own.seen == []
