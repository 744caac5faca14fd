"""The driver of the local embedding model, before a scripted child."""

from __future__ import annotations

import array
import base64
from collections.abc import Sequence
from typing import Any

import pytest

from proxy.app import compose
from proxy.backends.local_embeddings import AT_ONCE, LONGEST, LocalEmbeddings
from proxy.config import Settings
from proxy.core.task import Embedded
from proxy.errors import BadRequest, Unsupported, UpstreamFault
from proxy.runtime.cancel import Cancel
from proxy.runtime.life import Life
from tests.fakes import CAPS


class ScriptedChildren:
    """Answers with the length of each text as its vector, or with `answer`."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.asked: list[Sequence[str]] = []

    def ask(self, texts: Sequence[str], cancel: Cancel, seconds: float) -> Any:
        self.asked.append(texts)
        if self.answer is not None:
            return self.answer
        vectors = [array.array("f", [len(text), 0.5]).tobytes() for text in texts]
        packed = [base64.b64encode(one).decode() for one in vectors]
        return {"vectors": packed, "tokens": len(texts)}


def model(answer: Any = None) -> tuple[LocalEmbeddings, ScriptedChildren]:
    made, children = LocalEmbeddings(), ScriptedChildren(answer)
    made._children = children  # type: ignore[assignment]  # it starts no process
    return made, children


def embedded(driver: LocalEmbeddings, *inputs: str | tuple[int, ...]) -> Embedded:
    return driver.embed(inputs, CAPS, Cancel())


def test_texts_have_their_vectors_in_order() -> None:
    driver, _ = model()
    found = embedded(driver, "a", "bcd", "ef")
    assert [list(vector) for vector in found.vectors] == [[1, 0.5], [3, 0.5], [2, 0.5]]
    assert found.tokens == 3


def test_request_is_split_where_the_child_is_free_for_others() -> None:
    driver, children = model()
    parts = driver.parts(["x"] * AT_ONCE + ["y", "z"])
    assert [list(part) for part in parts] == [["x"] * AT_ONCE, ["y", "z"]]
    with pytest.raises(BadRequest):
        driver.parts(["y", "x" * (LONGEST + 1)])
    assert children.asked == []


def test_longest_text_is_embedded_and_a_longer_one_refused() -> None:
    driver, children = model()
    assert embedded(driver, "x" * LONGEST).vectors
    with pytest.raises(BadRequest, match=str(LONGEST + 1)):
        embedded(driver, "x" * (LONGEST + 1))
    assert len(children.asked) == 1


def test_lone_surrogates_do_not_reach_the_child() -> None:
    driver, children = model()
    embedded(driver, "a\ud800b")
    assert children.asked == [["a?b"]]


def test_token_ids_are_refused() -> None:
    driver, _ = model()
    with pytest.raises(Unsupported, match="send text"):
        embedded(driver, (1, 2))


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"vectors": "no list", "tokens": 1},
        {"vectors": ["%%%"], "tokens": 1},
        {"vectors": ["AAA="], "tokens": 1},
        {"vectors": [], "tokens": 1},
    ],
)
def test_invalid_answer_of_the_child_is_a_fault(answer: Any) -> None:
    driver, _ = model(answer)
    with pytest.raises(UpstreamFault):
        embedded(driver, "a")


@pytest.mark.parametrize(
    ("settings", "installed"),
    [
        (Settings(), False),
        (Settings(local_embeddings=False), True),
        (Settings(embedding_api=("http://127.0.0.1:9",)), True),
    ],
    ids=["no extra", "turned off", "embedding server"],
)
def test_there_is_none_unless_it_is_wanted_and_installed(
    settings: Settings, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose, "is_installed", lambda: installed)
    assert compose._local_embedder(settings, Life()) is None
