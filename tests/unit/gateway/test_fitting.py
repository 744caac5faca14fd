"""What is refused before a backend sees it: prompts that are too long, token ids that are none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from proxy.cancel import Cancel
from proxy.errors import BackendDown
from tests.fakes import CAPS, ScriptedDriver, make_app, services_of

LONG = "word " * 4000  # a token a character


class Counting(ScriptedDriver):
    """Notes how often it tokenizes; its vocabulary has 200 ids."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.counted = 0

    def tokenize(self, text: str, special: bool = False, cancel: Cancel | None = None) -> list[int]:
        self.counted += 1
        return super().tokenize(text, special, cancel)

    def n_vocab(self) -> int:
        return 200


class Dying(Counting):
    def tokenize(self, text: str, special: bool = False, cancel: Cancel | None = None) -> list[int]:
        raise BackendDown("the backend does not answer")


def _wide(driver: type[Counting] = Counting, n_ctx: int = 10_000) -> Counting:
    return driver(caps=msgspec.structs.replace(CAPS, n_ctx=n_ctx))


def test_too_long_a_prompt_is_refused_before_it_takes_a_slot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = Counting()
    app = make_app(driver)
    monkeypatch.setattr(services_of(app).gateway.scheduler, "enter", None)
    answer = app.test_client().post("/v1/completions", json={"prompt": LONG})
    assert answer.status_code == 400
    assert answer.json is not None
    assert answer.json["error"]["code"] == "context_length_exceeded"
    assert driver.counted < 10


def test_prompt_that_fits_one_backend_of_two_goes_there() -> None:
    small, large = Counting(), _wide(n_ctx=30_000)
    app = make_app(small, large)
    for _ in range(2):
        asked = {"prompt": LONG, "max_tokens": 20_000}
        assert app.test_client().post("/v1/completions", json=asked).status_code == 200
    assert not small.tasks
    assert len(large.tasks) == 2


def test_backends_of_one_model_share_a_count() -> None:
    first, second = _wide(n_ctx=30_000), _wide(n_ctx=30_000)
    app = make_app(first, second)
    for _ in range(4):
        asked = {"prompt": LONG + "!", "max_tokens": 20_000}
        assert app.test_client().post("/v1/completions", json=asked).status_code == 200
    assert (first.counted > 0) != (second.counted > 0)


def test_backend_that_dies_while_it_counts_costs_no_answer() -> None:
    app = make_app(_wide(Dying, 30_000), _wide(n_ctx=30_000))
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
def test_token_id_outside_the_vocabulary_never_reaches_the_backend(
    path: str, body: dict[str, Any], field: str
) -> None:
    driver = Counting()
    answer = make_app(driver).test_client().post(path, json=body)
    assert answer.status_code == 400
    assert answer.json is not None
    message = answer.json["error"]["message"]
    assert message == f"{field} holds the token id 200: the ids of this model are 0 to 199"
    assert all(200 not in task.prompt for task in driver.tasks)
