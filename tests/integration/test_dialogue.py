"""The dialogues on real servers, below the web layer: prompts, streams, usage and cancelling."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from proxy.accounts.rights import Permissions
from proxy.agent.toolbox import Toolbox
from proxy.app.compose import compose
from proxy.config import load
from proxy.core.events import Finished, TextDelta
from proxy.core.request import Message
from proxy.dialogue.events import DialogueEvent, DialogueRequest, Sources, Tick
from proxy.dialogue.finding import Finder
from proxy.dialogue.run import Dialogues
from proxy.errors import Forbidden, InvalidParameter
from proxy.web.services import Services
from tests.fakes import wait_until
from tools.processes import ModelServer

from .searxng import SearXNG

QUESTION = (Message(role="user", content="Tell me of harbours."),)


def services(data: Path, *flags: str) -> Iterator[Services]:
    found = compose(load(["--data", str(data), *flags], {}))
    wait_until(lambda: found.gateway.registry.ready)
    yield found
    found.gateway.registry.close()


@pytest.fixture
def here(any_server: ModelServer, tmp_path: Path) -> Iterator[Services]:
    yield from services(tmp_path, "--llama-api", any_server.url, "--slots", "2")


@pytest.fixture
def dialogues(here: Services) -> Dialogues:
    return here.dialogues


def events(dialogues: Dialogues, request: DialogueRequest) -> list[DialogueEvent]:
    running = dialogues.run(request)
    try:
        return [event for event in running if not isinstance(event, Tick)]
    finally:
        running.close()


# -- chat ------------------------------------------------------------------------------------------


def test_chat_is_streamed_and_counted(dialogues: Dialogues) -> None:
    running = dialogues.run(DialogueRequest(kind="chat", messages=QUESTION, max_tokens=8))
    *pieces, done = running
    running.close()
    assert "".join(piece.text for piece in pieces if isinstance(piece, TextDelta))
    assert isinstance(done, Finished)
    assert done.reason == "length"
    assert done.usage.completion == 8
    assert running.info.usage == done.usage


def test_closed_chat_releases_its_slot(here: Services) -> None:
    asked = DialogueRequest(kind="chat", messages=QUESTION, max_tokens=1000)
    running = here.dialogues.run(asked)
    next(running)
    running.close()
    assert running.info.outcome == "cancelled"
    assert here.gateway.scheduler.outstanding == 0
    again = here.dialogues.run(DialogueRequest(kind="chat", messages=QUESTION, max_tokens=2))
    assert isinstance(list(again)[-1], Finished)


# -- knowledge -------------------------------------------------------------------------------------

FACTS = {
    "tide": "The tide in the old harbour rises by four meters twice a day, and boats that lie at "
    "the eastern wall touch ground when it is low. ",
    "light": "The lighthouse on the northern pier was built of granite, and its lamp is seen from "
    "a distance of twenty miles when the air is clear. ",
    "crane": "Two cranes unload the freighters; the larger one lifts sixty tons, the smaller one "
    "was taken from a shipyard that was closed. ",
    "fee": "A yacht pays nine coins a night, and half of that in winter, when the water is turned "
    "off at the floating jetties. ",
}


class Base(msgspec.Struct, frozen=True):
    id: str


class Hit(msgspec.Struct, frozen=True):
    chunk_id: str
    document_id: str
    base_id: str
    filename: str
    text: str
    place: str
    score: float


class Shelf:
    """A knowledge base of four documents; a question finds those it names, and then the first."""

    def within(self, may: Permissions) -> Shelf:
        return self

    def bases(self, owner: str) -> Iterable[Base]:
        return [Base("b1")]

    def base(self, owner: str, id_or_name: str) -> Base:
        assert (owner, id_or_name) == ("key-1", "harbour")
        return Base("b1")

    def search(
        self,
        owner: str,
        base_ids: Sequence[str],
        query: str,
        top_k: int = 3,
        score_threshold: float | None = None,
    ) -> Sequence[Hit]:
        assert list(base_ids) == ["b1"]
        named = [name for name in FACTS if name in query]
        rest = [name for name in FACTS if name not in named]
        return [
            Hit(f"c-{name}", f"d-{name}", "b1", f"{name}.md", FACTS[name] * 2, "page 2", 0.5)
            for name in ([*named, *rest] if named else [])[:top_k]
        ]


@pytest.fixture
def knowing(here: Services) -> Dialogues:
    box = Toolbox([], clock=here.gateway.clock, now=here.gateway.now)
    return Dialogues(here.gateway, here.layouts, Finder(cast(Any, Shelf()), None), box)


def about(*said: str, **more: object) -> DialogueRequest:
    roles = ("user", "assistant")
    messages = tuple(Message(role=roles[i % 2], content=text) for i, text in enumerate(said))  # type: ignore[arg-type]
    fields: dict[str, object] = {"max_tokens": 8, "bases": ("harbour",), "owner": "key-1", **more}
    return DialogueRequest(kind="knowledge", messages=messages, **fields)  # type: ignore[arg-type]


def test_second_question_evaluates_less_than_half_of_the_first(knowing: Dialogues) -> None:
    sources, *text, done = events(knowing, about("When is the tide low?"))
    assert isinstance(sources, Sources)
    assert [one.title for one in sources.citations] == ["tide.md", "light.md", "crane.md"]
    assert [(one.number, one.place) for one in sources.citations] == [
        (1, "page 2"), (2, "page 2"), (3, "page 2"),
    ]  # fmt: skip
    assert isinstance(done, Finished)
    first = done.usage.prompt - done.usage.cached
    answer = "".join(piece.text for piece in text if isinstance(piece, TextDelta))
    sources, *_, done = events(
        knowing, about("When is the tide low?", answer, "How much is the fee?")
    )
    assert isinstance(sources, Sources)
    assert [(one.number, one.title) for one in sources.citations] == [
        (4, "fee.md"), (1, "tide.md"), (2, "light.md"),
    ]  # fmt: skip
    assert isinstance(done, Finished)
    second = done.usage.prompt - done.usage.cached
    print(f"evaluated {first} tokens, then {second} of {done.usage.prompt}")
    assert done.usage.prompt > first
    assert second < first / 2


def test_documents_are_dropped_when_the_context_is_full(knowing: Dialogues) -> None:
    said: list[str] = []
    for name in FACTS:
        said += [f"What of the {name}?", "x " * 150]
    found = events(knowing, about(*said, "And the crane?"))
    assert isinstance(found[0], Sources)
    assert found[0].citations[0].title == "crane.md"
    assert isinstance(found[-1], Finished)
    assert len(found[0].citations) == 1, "all of them would be more than the context holds"


def test_knowledge_dialogue_needs_a_base(knowing: Dialogues) -> None:
    with pytest.raises(InvalidParameter, match="at least one knowledge base"):
        knowing.run(about("What of the tide?", bases=()))


def test_empty_search_is_reported(knowing: Dialogues) -> None:
    sources, *_, done = events(knowing, about("What of horses?"))
    assert sources == Sources(())
    assert isinstance(done, Finished)


def test_knowledge_dialogue_is_refused_without_bases(here: Services) -> None:
    box = Toolbox([], clock=here.gateway.clock, now=here.gateway.now)
    dialogues = Dialogues(here.gateway, here.layouts, Finder(None, None), box)
    with pytest.raises(Forbidden, match="knowledge bases are not available"):
        events(dialogues, about("What of the tide?"))


# -- search ----------------------------------------------------------------------------------------


@pytest.fixture
def searxng() -> Iterator[SearXNG]:
    server = SearXNG(FACTS)
    yield server
    server.end()


@pytest.fixture
def searching(old_server: ModelServer, searxng: SearXNG, tmp_path: Path) -> Iterator[Dialogues]:
    # One slot: with two, a prompt this short is sometimes evaluated sooner than its slot is free.
    flags = ["--llama-api", old_server.url, "--slots", "1", "--search-engine", "searxng"]
    for found in services(tmp_path, *flags, "--searxng-url", searxng.url):
        yield found.dialogues


def search_of(*said: str) -> DialogueRequest:
    return msgspec.structs.replace(about(*said), kind="search", bases=(), top_k=2)


def test_web_search_cites_pages_and_is_cached(searching: Dialogues, searxng: SearXNG) -> None:
    sources, *text, done = events(searching, search_of("tides"))
    assert isinstance(sources, Sources)
    assert [(one.number, one.url) for one in sources.citations] == [
        (1, "https://tide.example/"), (2, "https://light.example/"),
    ]  # fmt: skip
    assert isinstance(done, Finished)
    answer = "".join(piece.text for piece in text if isinstance(piece, TextDelta))
    first = done.usage.prompt
    done = events(searching, search_of("tides", answer, "cranes"))[-1]
    assert isinstance(done, Finished)
    assert done.usage.cached > first / 2
    assert len(searxng.asked) == 2
