"""The chat page's own API on a scripted backend: answers continue without a client."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flask.testing import FlaskClient

from proxy.backends.driver import Capabilities
from proxy.config.routes import RouteConfig, Rule
from proxy.core.events import Batch, Finished, ReasoningDelta, Started, TextDelta
from proxy.core.task import Task
from proxy.core.usage import Usage
from proxy.errors import Cancelled, GatewayError, QueueFull, UpstreamFault
from proxy.runtime.cancel import Cancel
from proxy.store.conversations import ConversationStore
from proxy.web.pages import answers, chat
from proxy.web.pages.answers import Answers
from tests.fakes import CAPS, ScriptedDriver, ScriptedRun, make_app, say, services_of, wait_until

API = "/pages/api/chat"
KEYED = {"Authorization": "Bearer any"}  # replaces the CSRF token in scripts


class Page:
    """Makes the requests of the page's script."""

    def __init__(self, driver: ScriptedDriver, folder: Path, **settings: Any) -> None:
        self.driver: Any = driver
        app = make_app(driver, data=str(folder), **settings)
        store = services_of(app).conversations
        if store is None:
            pytest.skip("the extra knowledge is not installed")
        self.client: FlaskClient = app.test_client()
        self.store: ConversationStore = store
        self.talk = self.post("/conversations").json["id"]

    def post(self, path: str, body: Any = None) -> Any:
        return self.client.post(API + path, json=body or {}, headers=KEYED)

    def ask(self, **body: Any) -> Any:
        return self.post(f"/conversations/{self.talk}/ask", {"text": "Hi", **body})

    def messages(self) -> Any:
        return self.client.get(f"{API}/conversations/{self.talk}/messages").json

    def over(self) -> Any:
        """The last message, once it is finished."""
        wait_until(lambda: self.messages()[-1]["status"] != "growing")
        return self.messages()[-1]


def test_answer_is_stored_without_followers(tmp_path: Path) -> None:
    page = Page(ScriptedDriver(say("Hel", "lo")), tmp_path)
    made = page.ask()
    assert made.status_code == 201
    answer = page.over()
    assert (answer["content"], answer["status"]) == ("Hello", "done")
    assert answer["parent_id"] == made.json["question"]["id"]
    assert answer["extra"]["usage"]["completion"] == 3


def test_question_to_a_route_with_rules_is_answered_by_the_model_that_they_choose(
    tmp_path: Path,
) -> None:
    route = (RouteConfig(model="auto", rules=(Rule(models=("scripted",)),)),)
    page = Page(ScriptedDriver(say("Hello")), tmp_path, route=route)
    assert page.ask(options={"model": "auto"}).status_code == 201
    assert page.over()["content"] == "Hello"
    assert page.driver.tasks[0].request.model == "scripted"


class Held(ScriptedDriver):
    """Generates a word, or several, then waits until it may continue or is cancelled."""

    def __init__(self, slots: int = 2, words: tuple[str, ...] = ("first",)) -> None:
        super().__init__(caps=msgspec.structs.replace(CAPS, slots=slots))
        self.go_on = threading.Event()
        self.words = words

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> ScriptedRun:
        run = super().stream(task, slot, caps, cancel)
        held, words = self.go_on, self.words

        class Slow(ScriptedRun):
            def __iter__(self) -> Iterator[Batch]:
                yield [Started(slot=0), *map(TextDelta, words)]
                while not held.wait(0.01):
                    if cancel.cancelled:
                        raise Cancelled("the request was cancelled")
                yield [TextDelta(" second"), Finished(reason="stop", usage=Usage(1, 2, 0), slot=0)]

        slow = Slow(())
        slow.closed = run.closed
        return slow


def test_lost_connection_resumes_after_last_event(tmp_path: Path) -> None:
    page = Page(Held(), tmp_path)
    answer = page.ask().json["answer"]["id"]
    where = f"{API}/answers/{answer}/events"
    events = iter(page.client.get(where).iter_encoded())
    first = next(event for event in events if b"first" in event).decode()
    (seen,) = re.findall(r"id: (\S+)\ndata: .*first", first)
    again = page.client.get(where, headers={"Last-Event-ID": seen})
    page.driver.go_on.set()
    rest = again.get_data(as_text=True)
    assert '"first"' not in rest and " second" in rest and '"over"' in rest


def test_text_is_shown_although_the_model_pauses_after_it(tmp_path: Path) -> None:
    page = Page(Held(words=("first", " and", " more")), tmp_path)
    page.ask()
    wait_until(lambda: page.messages()[-1]["content"] == "first and more")
    page.driver.go_on.set()
    assert page.over()["content"] == "first and more second"


def test_answer_that_is_over_at_once_is_followed_to_its_end(tmp_path: Path) -> None:
    page = Page(ScriptedDriver([UpstreamFault("it fell over")]), tmp_path)
    answer = page.ask().json["answer"]["id"]
    assert page.over()["status"] == "failed"
    events = page.client.get(f"{API}/answers/{answer}/events")
    assert events.status_code == 200 and '"status":"failed"' in events.text
    assert page.client.get(f"{API}/answers/none/events").status_code == 404


def test_another_worker_follows_and_stops_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page(Held(), tmp_path)
    answer = page.ask().json["answer"]["id"]
    where = f"{API}/answers/{answer}/events"
    writer = chat._answers
    monkeypatch.setattr(chat, "_answers", Answers())  # as in a process that does not generate it
    events = iter(page.client.get(where).iter_encoded())
    first = next(event for event in events if b"first" in event)
    assert b"id: 5.0\n" in first
    assert page.post(f"/answers/{answer}/stop").status_code == 204
    rest = b"".join(events)
    assert b'"status":"stopped"' in rest
    page.driver.go_on.set()
    wait_until(lambda: writer.get("", answer) is None)
    assert (page.over()["status"], page.over()["content"]) == ("stopped", "first")


def test_answer_stopped_by_another_worker_ends_while_the_model_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "_answers", writer := Answers(beat=0.02))
    page = Page(Held(), tmp_path)
    answer = page.ask().json["answer"]["id"]
    wait_until(lambda: page.messages()[-1]["content"] == "first")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(chat, "_answers", Answers())
        assert page.post(f"/answers/{answer}/stop").status_code == 204
    wait_until(lambda: writer.get("", answer) is None)  # although the model never continued
    assert page.driver.runs[0].closed.is_set()
    assert (page.over()["status"], page.over()["content"]) == ("stopped", "first")


def test_answer_without_output_keeps_its_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "_answers", writer := Answers(beat=0.02))
    page = Page(Held(), tmp_path)
    page.ask()
    wait_until(lambda: page.messages()[-1]["content"] == "first")
    signs = 0

    def renew(store: ConversationStore, message_id: str) -> bool:
        nonlocal signs
        signs += 1
        if signs == 2:
            raise GatewayError("the disk is busy")
        return True

    monkeypatch.setattr(ConversationStore, "renew", renew)
    wait_until(lambda: signs > 4)
    page.driver.go_on.set()
    assert page.over()["status"] == "done"
    wait_until(lambda: not writer._looking.running)  # there are no events


def test_answer_of_lost_writer_is_shown_as_interrupted_and_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page(ScriptedDriver(), tmp_path)
    left = page.store.add("", page.talk, "assistant", "Half a", status="growing")
    where = f"{API}/answers/{left.id}/events"
    events = iter(page.client.get(where).iter_encoded())
    next(event for event in events if b"Half a" in event)
    with monkeypatch.context() as later:
        later.setattr("proxy.store.conversations.LEASE", -1.0)  # simulates the time
        assert b'"status":"interrupted"' in b"".join(events)
        assert [message["status"] for message in page.messages()] == ["interrupted"]
    assert page.post(f"/answers/{left.id}/stop").status_code == 204
    assert [message["status"] for message in page.messages()] == ["stopped"]


def test_queued_answer_shows_its_place(tmp_path: Path) -> None:
    page = Page(Held(slots=1), tmp_path)
    first = page.ask().json["answer"]["id"]
    wait_until(lambda: page.messages()[-1]["content"] == "first")
    second = page.ask().json["answer"]["id"]
    events = iter(page.client.get(f"{API}/answers/{second}/events").iter_encoded())
    assert next(event for event in events if b'"place":1' in event)
    assert page.post(f"/answers/{first}/stop").status_code == 204
    page.driver.go_on.set()
    assert b" second" in b"".join(events)  # its place ends with its wait


@pytest.mark.parametrize("fault", [UpstreamFault("it fell over"), QueueFull("the queue is full")])
def test_fault_is_stored_and_the_question_can_be_asked_again(
    tmp_path: Path, fault: GatewayError
) -> None:
    page = Page(ScriptedDriver([fault]), tmp_path)
    question = page.ask().json["question"]["id"]
    answer = page.over()
    assert (answer["status"], answer["extra"]["error"]) == ("failed", fault.message)
    page.driver.script = say("Hello")
    page.ask(text="", again=question)
    assert page.over()["content"] == "Hello"


def test_regenerated_answer_is_a_branch_with_the_same_history(tmp_path: Path) -> None:
    page = Page(ScriptedDriver(say("A")), tmp_path)
    question = page.ask().json["question"]
    first = page.over()
    page.ask(text="", again=question["id"])
    second = page.over()
    assert second["parent_id"] == first["parent_id"] and second["id"] != first["id"]
    page.ask(text="And?", parent_id=second["id"])
    page.over()
    assert len(page.messages()) == 5


def test_conversation_keeps_its_model_and_its_open_branch(tmp_path: Path) -> None:
    page = Page(ScriptedDriver(say("A")), tmp_path)
    (model,) = services_of(page.client.application).gateway.registry.models()
    question = page.ask(options={"model": model}).json["question"]
    first = page.over()
    assert first["extra"]["model"] == model
    page.ask(text="", again=question["id"], options={"model": model})
    second = page.over()
    where = f"{API}/conversations/{page.talk}"
    assert page.client.get(where).json["settings"] == {
        "plain_title": True,
        "model": model,
        "leaf": second["id"],
    }
    page.ask(text="", again=question["id"], options={"model": model}, compared=True)
    assert page.client.get(where, headers=KEYED).json["settings"]["leaf"] == second["id"]
    page.over()
    page.driver.script = say("B")
    page.ask(text="Other", options={"model": model})  # a branch of its own
    page.over()
    put = {"leaf": first["id"], "model": "another"}
    settings = page.client.put(where, json=put, headers=KEYED).json["settings"]
    assert settings == {"plain_title": True, "model": "another", "leaf": first["id"]}
    exported = page.client.get(f"{where}/export", query_string={"as": "md"}).text
    assert exported.endswith("## user\n\nHi\n\n## assistant\n\nA\n")
    page.client.put(where, json={"leaf": "msg_deleted"}, headers=KEYED)
    exported = page.client.get(f"{where}/export", query_string={"as": "md"}).text
    assert exported.endswith("## assistant\n\nB\n")


@pytest.mark.parametrize(("n_ctx", "most"), [(1 << 17, chat.LONGEST_ANSWER), (2048, None)])
def test_answer_without_a_maximum_is_bounded(tmp_path: Path, n_ctx: int, most: int | None) -> None:
    """If the context leaves less, that is the bound: a server may refuse a larger one."""
    caps = msgspec.structs.replace(CAPS, n_ctx=n_ctx)
    page = Page(ScriptedDriver(say("A"), caps=caps), tmp_path)
    (model,) = services_of(page.client.application).gateway.registry.models()
    page.ask(options={"model": model})
    page.over()
    assert page.driver.tasks[-1].request.max_tokens == most


def test_time_of_reasoning_is_stored(tmp_path: Path) -> None:
    page = Page(
        ScriptedDriver([[Started(slot=0)], [ReasoningDelta("Hm.")], *say("A")[1:]]), tmp_path
    )
    page.ask()
    assert page.over()["extra"]["thought"] >= 0


SENSELESS: list[dict[str, Any]] = [
    {"text": " "},
    {"text": 1},
    {"again": "msg_none"},
    {"parent_id": "msg_none"},
    {"options": {"kind": "evil"}},
    {"options": {"sampling": {"temperature": "hot"}}},
    {"options": {"history": -1}},
    {"options": {"top_k": 0}},
    {"options": {"template": "none"}},
    {"options": {"template": "../default"}},
    {"options": {"kind": "knowledge", "template": "py"}},
    {"options": {"sampling": {"min_p": 2}}},
    {"options": {"score_threshold": "low"}},
    {"options": {"score_threshold": 2}},
]


def test_invalid_question_stores_nothing(tmp_path: Path) -> None:
    page = Page(ScriptedDriver(), tmp_path)
    for body in SENSELESS:
        assert page.ask(**body).status_code in (400, 404), body
    assert page.messages() == []


def test_only_given_settings_reach_the_model(tmp_path: Path) -> None:
    page = Page(ScriptedDriver(), tmp_path)
    sampling = {"min_p": 0.1, "presence_penalty": -0.5, "frequency_penalty": 0.5, "seed": 7}
    page.ask(options={"template": "py", "sampling": sampling, "max_tokens": 9})
    page.over()
    request = page.driver.tasks[-1].request
    assert request.sampling == sampling
    assert request.max_tokens == 9
    assert [message.role for message in request.messages] == ["system", "user"]
    assert "Python" in request.messages[0].content


def test_conversation_is_exported(tmp_path: Path) -> None:
    page = Page(ScriptedDriver(say("Hello")), tmp_path)
    page.ask(text="Hi <b>you</b>")
    page.over()
    where = f"{API}/conversations/{page.talk}/export"
    text = page.client.get(where, query_string={"as": "md"})
    assert text.text == "# Hi <b>you</b>\n\n## user\n\nHi <b>you</b>\n\n## assistant\n\nHello\n"
    assert text.headers["Content-Disposition"].startswith("attachment")
    whole = page.client.get(where, query_string={"as": "json"})
    assert [message["content"] for message in whole.json["messages"]] == ["Hi <b>you</b>", "Hello"]


@pytest.mark.parametrize("everything", [False, True])
def test_deleted_conversation_is_not_written_again(tmp_path: Path, everything: bool) -> None:
    page = Page(Held(), tmp_path)
    answer = page.ask().json["answer"]["id"]
    growing = chat._answers.get("", answer)
    assert growing is not None
    path = "" if everything else f"/{page.talk}"
    assert page.client.delete(f"{API}/conversations{path}", headers=KEYED).status_code == 204
    assert growing.cancel.cancelled
    page.driver.go_on.set()
    wait_until(lambda: chat._answers.get("", answer) is None)


def test_conversations_are_listed_page_by_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "TALKS", 2)
    page = Page(ScriptedDriver(), tmp_path)
    for title in "BCDE":
        made = page.post("/conversations").json["id"]
        put = {"title": title}
        page.client.put(f"{API}/conversations/{made}", json=put, headers=KEYED)
    seen: list[str] = []
    before = ""
    while talks := page.client.get(f"{API}/conversations?before={before}").json:
        seen += [talk["title"] for talk in talks]
        before = talks[-1]["changed"]
    assert seen == ["E", "D", "C", "B", ""]


def test_answer_beyond_the_limit_stores_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "MOST", 1)
    page = Page(Held(), tmp_path)
    first = page.ask().json["answer"]["id"]
    refused = page.ask(text="Once more")
    assert (refused.status_code, refused.json["error"]["code"]) == (429, "queue_full")
    assert [m["content"] for m in page.messages() if m["role"] == "user"] == ["Hi"]
    page.driver.go_on.set()
    page.over()
    wait_until(lambda: chat._answers.get("", first) is None)
    assert page.ask(text="Once more").status_code == 201


def test_answer_without_thread_ends_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page(ScriptedDriver(say("Hello")), tmp_path)

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as now:
        now.setattr(threading.Thread, "start", start)
        assert page.ask().status_code == 201
    assert page.messages()[-1]["status"] == "failed"


# The thread's traceback goes to standard error.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_exception_while_answering_fails_the_answer_without_details(tmp_path: Path) -> None:
    class Broken(ScriptedDriver):
        def stream(self, *args: Any) -> ScriptedRun:
            if not self.tasks:
                self.tasks.append(args[0])
                raise KeyError("a secret detail")
            return super().stream(*args)

    page = Page(Broken(say("Hello")), tmp_path)
    question = page.ask().json["question"]["id"]
    answer = page.over()
    assert (answer["status"], answer["extra"]["error"]) == ("failed", "internal error")
    assert "secret" not in json.dumps(answer)
    page.ask(text="", again=question)
    assert page.over()["content"] == "Hello"


def test_answer_that_cannot_be_stored_ends_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def append(*_: Any) -> None:
        raise GatewayError("the disk is full")

    monkeypatch.setattr(ConversationStore, "append", append)
    page = Page(ScriptedDriver(say("Hello")), tmp_path)
    page.ask()
    assert page.over()["status"] == "failed"


def test_question_length_is_bounded(tmp_path: Path) -> None:
    page = Page(ScriptedDriver(), tmp_path)
    assert page.ask(text="x" * (chat.LONGEST + 1)).status_code == 400
    assert page.ask(text="x" * chat.LONGEST).status_code == 201
    page.over()


def test_message_is_deleted_and_its_answer_stops(tmp_path: Path) -> None:
    page = Page(Held(), tmp_path)
    question = page.ask().json["question"]["id"]
    wait_until(lambda: page.messages()[-1]["content"] == "first")
    where = f"{API}/messages/{question}"
    assert page.client.delete(where).status_code == 403  # without a token
    assert page.client.delete(where, headers=KEYED).status_code == 204
    assert page.messages() == []
    services = services_of(page.client.application)
    wait_until(lambda: services.writers.taken == 0)
    assert page.client.delete(where, headers=KEYED).status_code == 404
