"""Routes that load and unload models that the gateway starts itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from msgspec import structs

from proxy.config.keys import ApiKey, Secret
from proxy.errors import UpstreamFault
from proxy.hosting.model import HostedModel
from proxy.hosting.process import ModelLog
from proxy.web.model_tables import preset
from tests.fakes import CAPS, ScriptedDriver, make_app, say, services_of, wait_until
from tests.gguf_files import gguf
from tests.unit.hosting import fakes
from tools import made_up_model as made_up

KEYS = tuple(ApiKey(name, Secret(f"key-of-{name}")) for name in ("admin", "other"))
ADMIN, OTHER = ({"Authorization": f"Bearer {key.secret}"} for key in KEYS)


class Served:
    """An app with a model of its name, `scripted`, that a small program serves."""

    def __init__(self, app: Flask) -> None:
        self.driver = ScriptedDriver()
        self.http: FlaskClient = app.test_client()
        host = services_of(app).host
        fake = fakes.fake()
        host.hosting.connect = lambda config, url, check: fake(url, check)
        self.model: HostedModel = host.add(fakes.config(name="scripted", ttl=300.0))

    def post(self, path: str, **body: Any) -> Any:
        return self.http.post(path, json=body, headers=ADMIN)


@pytest.fixture
def served() -> Iterator[Served]:
    app = make_app(ScriptedDriver(), file_keys=KEYS, admins=("admin",))
    made = Served(app)
    yield made
    made.model.close()
    made.model.join(60)


def test_model_is_loaded_and_unloaded_by_hand(served: Served) -> None:
    http, model = served.http, served.model
    assert http.get("/running", headers=OTHER).json == {"running": []}
    for _ in range(5):  # a load that came late would begin again behind the unload
        for _ in range(2):
            assert served.post("/models/load", model="scripted").json == {"success": True}
        wait_until(lambda: model.status == "loaded")
        (running,) = http.get("/running", headers=OTHER).json["running"]
        assert (running["model"], running["state"], running["ttl"]) == ("scripted", "ready", 300)
        assert served.post("/models/unload", model="scripted").json == {"success": True}
        wait_until(lambda: model.status == "unloaded")
    assert served.post("/models/unload", model="scripted").status_code == 200


def test_lists_show_what_the_file_of_a_model_tells(tmp_path: Path) -> None:
    file = made_up.write(tmp_path / "scripted.gguf", n_ctx=512)
    app = make_app(ScriptedDriver())
    server = fakes.config(f"server -m {file} ${{PORT}}", name="scripted")
    services_of(app).host.add(server)
    http = app.test_client()
    (tag,) = http.get("/api/tags").json["models"]
    assert tag["size"] == file.stat().st_size
    meta = http.get("/v1/models/scripted").json["meta"]
    assert (meta["name"], meta["n_ctx_train"], meta["n_embd"]) == ("made-up", 512, 64)
    assert meta["size"] == file.stat().st_size
    shown = http.post("/api/show", json={"model": "scripted"}).json
    assert shown["details"]["quantization_level"] == "F16"
    assert shown["model_info"]["llama.context_length"] > 0
    file.write_bytes(gguf({"general.architecture": "x" * 10, "tokenizer.chat_template": "{{ 1 }}"}))
    assert http.post("/api/show", json={"model": "scripted"}).json["template"] == "{{ 1 }}"


def test_model_that_loads_is_unloaded(served: Served) -> None:
    http, model = served.http, served.model
    ready = fakes.fake()
    silent = type("Silent", (ready,), {"status_of": lambda self, path, seconds: 0})
    model._starter.connect = silent
    assert served.post("/models/load", model="scripted").json == {"success": True}
    wait_until(lambda: model._starter.process is not None)
    assert http.get("/running", headers=OTHER).json["running"][0]["state"] == "starting"
    assert served.post("/models/unload", model="scripted").json == {"success": True}
    assert [row["state"] for row in http.get("/running", headers=OTHER).json["running"]] in (
        ["stopping"],
        [],
    )
    wait_until(lambda: http.get("/running", headers=OTHER).json == {"running": []})
    wait_until(lambda: model._starter.process is None)
    model._starter.connect = ready
    served.post("/models/load", model="scripted")
    wait_until(lambda: model.status == "loaded")


def test_all_models_are_unloaded(served: Served) -> None:
    fakes.use(served.model)
    served.model.leave(answered=True)
    assert served.http.post("/unload", headers=ADMIN).status_code == 200
    wait_until(lambda: served.model.status == "unloaded")


@pytest.mark.parametrize(
    "path", ["/models/load", "/models/unload", "/models/pin", "/models/unpin", "/unload"]
)
def test_only_admins_load_and_unload(served: Served, path: str) -> None:
    answer = served.http.post(path, json={"model": "scripted"}, headers=OTHER)
    assert answer.status_code == 403
    assert (served.model.status, served.model.pinned) == ("unloaded", False)


@pytest.mark.parametrize(
    ("body", "status"), [({"model": "absent"}, 404), ({}, 400), ({"model": 3}, 400)]
)
def test_wrong_model_to_load_is_an_error(served: Served, body: dict[str, Any], status: int) -> None:
    assert served.post("/models/load", **body).status_code == status


def test_logs_are_for_admins(served: Served) -> None:
    served.model.log.add(b"a line")
    answer = served.http.get("/logs/scripted", headers=ADMIN)
    assert (answer.text, answer.mimetype) == ("a line\n", "text/plain")
    for accept in ({}, {"Accept": "text/event-stream"}):
        refused = served.http.get("/logs/scripted", headers={**OTHER, **accept})
        assert refused.status_code == 403
    assert served.http.get("/logs/scripted").status_code == 401
    assert served.http.get("/logs/absent", headers=ADMIN).status_code == 404


def test_ollama_loads_and_unloads_with_an_empty_prompt(served: Served) -> None:
    model = served.model
    answer = served.post("/api/generate", model="scripted", keep_alive="10m")
    assert (answer.json["done_reason"], model.status) == ("load", "loaded")
    assert 500 < model.left <= 600
    (shown,) = served.http.get("/api/ps", headers=OTHER).json["models"]
    assert shown["expires_at"] < "9999"
    answer = served.post("/api/chat", model="scripted", keep_alive=0)
    assert answer.json["done_reason"] == "unload"
    wait_until(lambda: model.status == "unloaded")


def test_ollama_learns_why_a_model_is_not_loaded(served: Served) -> None:
    kind: Any = type(served.model._starter.connect("http://127.0.0.1:1", lambda sock: None))
    kind.faults = (UpstreamFault("no such file"),)
    answer = served.post("/api/generate", model="scripted")
    assert (answer.status_code, answer.json) == (502, {"error": "no such file"})


def test_keep_alive_of_a_chat_is_for_admins(served: Served) -> None:
    fakes.use(served.model)
    chat = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}], "stream": False}
    for headers, left in ((OTHER, 300), (ADMIN, float("inf"))):
        body = {**chat, "keep_alive": -1}
        assert served.http.post("/api/chat", json=body, headers=headers).status_code == 200
        assert served.model.left <= left
        assert (served.model.left == float("inf")) == (headers is ADMIN)
    served.model.leave(answered=True)


@pytest.mark.parametrize("value", ["soon", "5 apples", True, [], "1" * 20])
def test_unreadable_keep_alive_is_named(served: Served, value: Any) -> None:
    answer = served.post("/api/generate", model="scripted", keep_alive=value)
    assert (answer.status_code, "keep_alive" in answer.json["error"]) == (400, True)


@pytest.fixture
def described() -> Served:
    return with_table()


def with_table(*others: ScriptedDriver, **settings: object) -> Served:
    """The model `scripted` has a table with more than a command."""
    driver = ScriptedDriver(say("Hello"))
    app = make_app(driver, *others, **settings)
    made = Served(app)
    made.driver = driver
    services_of(app).host._models.clear()
    made.model = services_of(app).host.add(
        fakes.config(
            name="scripted",
            aliases=("exact",),
            title="A title",
            description="What it is for",
            strip=("top_k", "tools", "system", "instructions"),
            set={"temperature": 0.5, "max_tokens": 7},
            set_by_alias={"exact": {"temperature": 0.0}},
        )
    )
    services_of(app).gateway.registry.backends["b0"].aliases = ("exact",)
    services_of(app).gateway.registry.rebuild()
    return made


HI: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "stream": False}
QUERY: dict[str, Any] = {"query": "Hi", "temperature": 1.0, "max_tokens": 100}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {**HI, "temperature": 1.0, "top_k": 3, "max_tokens": 100},
    "/api/chat": {**HI, "options": {"temperature": 1.0, "top_k": 3}},
    "/chat/chat": QUERY,
    "/chat/fastchat": {**HI, "temperature": 1.0, "max_tokens": 100},
    "/other/completion": QUERY,
}


@pytest.mark.parametrize("tag", ["", ":latest"])  # Ollama's clients send it
@pytest.mark.parametrize(("name", "temperature"), [("scripted", 0.5), ("exact", 0.0)])
@pytest.mark.parametrize("path", BODIES)
def test_table_changes_requests(path: str, name: str, temperature: float, tag: str) -> None:
    if tag and path != "/api/chat":
        return
    other = ScriptedDriver(caps=structs.replace(CAPS, models=("other",)))
    described = with_table(*[other] if tag else [], chatchat=True)
    field = "model_name" if "query" in BODIES[path] else "model"
    answer = described.post(path, **BODIES[path], **{field: name + tag})
    assert answer.status_code == 200, answer.text
    (task,) = described.driver.tasks
    assert task.sampling["temperature"] == temperature
    assert "top_k" not in task.sampling
    assert task.max_tokens == 7 or path == "/api/chat"  # Ollama's name for it is another


@pytest.mark.parametrize(("name", "temperature"), [("scripted", 0.5), ("exact", 0.0)])
def test_table_changes_questions_of_the_chat_page(
    tmp_path: Path, name: str, temperature: float
) -> None:
    described = with_table(data=str(tmp_path))
    if services_of(described.http.application).conversations is None:
        pytest.skip("the extra knowledge is not installed")
    talk = described.post("/pages/api/chat/conversations").json["id"]
    sampling = {"top_k": 3, "temperature": 1.0, "top_p": 0.5}
    options = {"model": name, "sampling": sampling, "max_tokens": 100}
    path = f"/pages/api/chat/conversations/{talk}/ask"
    answer = described.post(path, text="Hi", options=options)
    assert answer.status_code == 201, answer.text
    wait_until(lambda: bool(described.driver.tasks))
    (task,) = described.driver.tasks
    assert task.sampling["temperature"] == temperature
    assert task.sampling["top_p"] == 0.5
    assert "top_k" not in task.sampling
    assert task.max_tokens == 7
    events = described.http.get(f"/pages/api/chat/answers/{answer.json['answer']['id']}/events")
    assert b"over" in events.data  # it ends before the test does


@pytest.mark.parametrize(
    "path",
    [
        "/v1/messages/count_tokens",
        "/v1/chat/completions/input_tokens",
        "/v1/responses/input_tokens",
        "/apply-template",
    ],
)
def test_table_changes_what_is_counted_and_rendered(described: Served, path: str) -> None:
    said = "input" if "responses" in path else "messages"
    body = {said: [{"role": "user", "content": "Hi"}], "model": "scripted"}
    system = {"instructions" if "responses" in path else "system": "Be brief."}
    tool = {"name": "f", "parameters": {"type": "object"}}
    tools = {
        "/v1/messages/count_tokens": [{"name": "f", "input_schema": {"type": "object"}}],
        "/v1/responses/input_tokens": [{"type": "function", **tool}],
    }.get(path, [{"type": "function", "function": tool}])
    plain = described.post(path, **body)
    assert plain.status_code == 200
    assert described.post(path, **body, **system, tools=tools).json == plain.json


def test_table_is_shown_in_the_list(described: Served) -> None:
    (shown,) = described.http.get("/v1/models").json["data"]
    assert (shown["name"], shown["description"]) == ("A title", "What it is for")


def test_unlisted_model_answers_but_is_in_no_list(described: Served) -> None:
    registry = services_of(described.http.application).gateway.registry
    registry.backends["b0"].unlisted = True
    registry.rebuild()
    assert described.http.get("/v1/models").json["data"] == []
    assert described.http.get("/api/tags").json["models"] == []
    messages = [{"role": "user", "content": "Hi"}]
    answer = described.post("/v1/chat/completions", model="scripted", messages=messages)
    assert answer.status_code == 200
    assert answer.json["model"] == "scripted"
    assert described.post("/v1/chat/completions", messages=messages).status_code == 200


def test_model_is_pinned_and_unpinned(served: Served) -> None:
    for path, pinned in (("/models/pin", True), ("/models/unpin", False)):
        assert served.post(path, model="scripted").json == {"success": True}
        assert served.model.pinned == pinned


def test_log_is_streamed_and_goes_on_where_the_client_was(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.web.stream.LIFE", 0.0)
    log = served.model.log
    log.add(b"one")
    log.add(b"two")

    def stream(**headers: str) -> str:
        accept = {"Accept": "text/event-stream", **ADMIN, **headers}
        answer = served.http.get("/logs/scripted", headers=accept)
        assert answer.content_type == "text/event-stream"
        return answer.text.partition("\n\n")[2]

    begin = f"id: {log.id}-0\nevent: start\ndata: {log.id}\n\n"
    assert stream() == f"{begin}id: {log.id}-2\ndata: one\ndata: two\n\n"
    assert stream(**{"Last-Event-ID": f"{log.id}-1"}) == f"id: {log.id}-2\ndata: two\n\n"
    assert stream(**{"Last-Event-ID": f"{log.id}-2"}) == ""
    for other in (f"{ModelLog().id}-2", "nonsense", f"{log.id}--1"):
        assert stream(**{"Last-Event-ID": other}).startswith(begin)


def test_metadata_of_a_model_has_its_port_while_it_is_loaded(served: Served) -> None:
    model = served.model
    text = {"port": "${PORT}", "at": "http://here:${PORT}", "size": [1, {"unit": "B"}]}
    model.config = structs.replace(model.config, metadata=text)

    def shown() -> Any:
        data = served.http.get("/v1/models", headers=ADMIN).json["data"]
        return next(entry["meta"]["llamaswap"] for entry in data if entry["id"] == "scripted")

    assert shown() == {**text, "port": None, "at": "http://here:null"}
    server = fakes.use(model)
    port = int(server.url.rpartition(":")[2])
    assert shown() == {**text, "port": port, "at": f"http://here:{port}"}
    model.leave(answered=True)


def test_ollamas_options_are_changed_where_they_are() -> None:
    body = {"model": "m", "think": True, "options": {"temperature": 1, "top_k": 3}}
    changed = preset(body, ("top_k",), {"temperature": 0, "think": False}, options=True)
    assert changed == {"model": "m", "think": False, "options": {"temperature": 0}}
    assert preset({}, (), {"num_predict": 3}, options=True) == {"options": {"num_predict": 3}}


def test_wrong_options_are_left_for_the_dialect_to_refuse() -> None:
    body: dict[str, Any] = {"options": 3}
    assert preset(body, (), {"seed": 1}, options=True) == body
