"""Checks before a request reaches a backend: prompt length and token ids."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from proxy.errors import BackendDown
from proxy.prompting.profile.verify import verdict
from proxy.runtime.cancel import Cancel
from tests.fakes import CAPS, ScriptedDriver, make_app, say, services_of

LONG = "word " * 4000  # a token a character


class CountingTokenizer(ScriptedDriver):
    """Counts its calls of `tokenize`; the vocabulary has 200 ids."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.counted = 0

    def tokenize(self, text: str, special: bool = False, cancel: Cancel | None = None) -> list[int]:
        self.counted += 1
        return super().tokenize(text, special, cancel)

    def n_vocab(self) -> int:
        return 200


class DyingTokenizer(CountingTokenizer):
    def tokenize(self, text: str, special: bool = False, cancel: Cancel | None = None) -> list[int]:
        raise BackendDown("the backend is not responding")


def _wide(
    driver: type[CountingTokenizer] = CountingTokenizer, n_ctx: int = 10_000
) -> CountingTokenizer:
    return driver(caps=msgspec.structs.replace(CAPS, n_ctx=n_ctx))


def test_prompt_longer_than_context_is_refused_before_taking_a_slot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = CountingTokenizer()
    app = make_app(driver)
    monkeypatch.setattr(services_of(app).gateway.scheduler, "enter", None)
    answer: Any = app.test_client().post("/v1/completions", json={"prompt": LONG})
    assert answer.status_code == 400
    assert answer.json["error"]["code"] == "context_length_exceeded"
    assert driver.counted < 10


def test_long_prompt_goes_to_the_backend_where_it_fits() -> None:
    small, large = CountingTokenizer(), _wide(n_ctx=30_000)
    app = make_app(small, large)
    for _ in range(2):
        asked = {"prompt": LONG, "max_tokens": 20_000}
        assert app.test_client().post("/v1/completions", json=asked).status_code == 200
    assert not small.tasks
    assert len(large.tasks) == 2


def test_backend_failure_while_counting_tokens_does_not_fail_the_request() -> None:
    app = make_app(_wide(DyingTokenizer, 30_000), _wide(n_ctx=30_000))
    asked = {"prompt": LONG, "max_tokens": 20_000}
    assert app.test_client().post("/v1/completions", json=asked).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/completions", {"prompt": [5, 200]}, "prompt"),
        ("/completion", {"prompt": [[5], [200]]}, "prompt"),
        ("/detokenize", {"tokens": [200]}, "tokens"),
        ("/v1/completions", {"prompt": "a", "logit_bias": {"200": 1}}, "logit_bias"),
    ],
)
def test_token_id_outside_vocabulary_never_reaches_backend(
    path: str, body: dict[str, Any], field: str
) -> None:
    driver = CountingTokenizer()
    answer: Any = make_app(driver).test_client().post(path, json=body)
    assert answer.status_code == 400
    message = answer.json["error"]["message"]
    assert message == f"{field} contains the token id 200: this model's ids are 0 to 199"
    assert all(200 not in task.prompt for task in driver.tasks)


def test_banned_end_token_with_tools_never_reaches_old_server() -> None:
    """The server would abort at the end of the grammar, with no token left to choose."""
    driver = ScriptedDriver()
    to = make_app(driver, chat_template="hermes").test_client()
    body = {
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"type": "function", "function": {"name": "now"}}],
    }
    refused: Any = to.post("/v1/chat/completions", json={**body, "ignore_eos": True})
    assert refused.status_code == 400
    assert refused.json["error"]["param"] == "ignore_eos"
    assert not driver.tasks
    answer = to.post("/v1/chat/completions", json={**body, "logit_bias": [[2, False]]})
    assert answer.status_code == 200
    assert driver.tasks[0].sampling["logit_bias"] == [[2, -1000]]


def test_kind_that_the_backend_renders_rightly_goes_to_its_own_route() -> None:
    caps = msgspec.structs.replace(CAPS, chat=True, queues=True, modern_sampling=True)
    driver = ScriptedDriver(say("Hi"), caps=caps)
    app = make_app(driver)
    backend = services_of(app).gateway.registry.backends["b0"]
    backend.verdict = verdict({"plain": "same", "system": "differs"})
    user, system = {"role": "user", "content": "Hi"}, {"role": "system", "content": "Be brief."}
    web = app.test_client()
    for messages in ([user], [system, user]):
        assert web.post("/v1/chat/completions", json={"messages": messages}).status_code == 200
    plain, special = driver.tasks
    assert (plain.backend_templates, plain.kinds) == (False, ())
    assert (special.backend_templates, special.kinds) == (True, ("system",))
    web.post("/v1/completions", json={"prompt": "Hi"})
    assert not driver.tasks[-1].backend_templates
