"""The dialogues on real servers, below the web: what is laid out, streamed, counted, given up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.app import create_app
from proxy.cancel import Cancel
from proxy.config import load
from proxy.core.invalid import Invalid
from proxy.core.request import Message
from proxy.dialogue import DialogueRequest, Dialogues, Done, Text
from proxy.web.services import EXTENSION, Services
from tests.fakes import wait_until
from tools.processes import ModelServer

QUESTION = (Message("user", "Tell me of harbours."),)


@pytest.fixture
def here(any_server: ModelServer) -> Iterator[Services]:
    app = create_app(load(["--llama-api", any_server.url, "--slots", "2"], {}))
    found: Services = app.extensions[EXTENSION]
    wait_until(lambda: found.gateway.registry.ready)
    yield found
    found.gateway.registry.close()


@pytest.fixture
def dialogues(here: Services) -> Dialogues:
    return here.dialogues


def test_a_chat_is_streamed_and_counted(dialogues: Dialogues) -> None:
    running = dialogues.run(DialogueRequest(kind="chat", messages=QUESTION, max_tokens=8))
    *pieces, done = running
    running.close()
    assert "".join(piece.delta for piece in pieces if isinstance(piece, Text))
    assert isinstance(done, Done)
    assert done.finish_reason == "length"
    assert done.usage.completion == 8
    assert running.info.usage == done.usage


def test_a_chat_that_is_closed_gives_its_slot_back(here: Services) -> None:
    asked = DialogueRequest(kind="chat", messages=QUESTION, max_tokens=1000)
    running = here.dialogues.run(asked)
    running.prime()
    running.close()
    assert running.info.outcome == "cancelled"
    assert here.gateway.scheduler.outstanding == 0
    again = here.dialogues.run(DialogueRequest(kind="chat", messages=QUESTION, max_tokens=2))
    assert isinstance(list(again)[-1], Done)


def test_a_question_comes_last(dialogues: Dialogues) -> None:
    with pytest.raises(Invalid, match="must end with a user's"):
        dialogues.run(DialogueRequest(kind="chat", messages=(Message("assistant", "x"),)), Cancel())
