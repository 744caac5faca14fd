"""The findings of `slotproxy doctor`, and what the command prints and returns."""

from __future__ import annotations

import http.server
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.__main__ import main
from proxy.app import discovery, doctor
from proxy.app.findings import (
    LITTLE_SPACE,
    Finding,
    of_access,
    of_backend,
    of_files,
    of_lost_backend,
    of_port,
    of_profile,
    of_space,
    of_tables,
    of_vectors,
    of_verdict,
)
from proxy.backends.driver import Capabilities, Learned, ignore
from proxy.backends.pools import Backend
from proxy.backends.probe import ROUTER
from proxy.config import BackendConfig, ModelConfig, Settings, load
from proxy.errors import BackendDown
from proxy.prompting.profile.verify import UNKNOWN, verdict
from proxy.prompting.prompt import Prompter
from proxy.prompting.template.templates import compile as compile_template
from proxy.runtime.cancel import Cancel
from proxy.runtime.resources import templates
from proxy.store.revisions import newest_revision
from tests.fakes import ScriptedDriver
from tools.processes import held_port

CONFIG = BackendConfig(url="http://127.0.0.1:8080", name="here")
GOOD = Capabilities(
    dialect="llama-server",
    slots=4,
    n_ctx=8192,
    queues=True,
    modern_sampling=True,
    chat=True,
    slot_save=True,
    template="{% for m in messages %}{{ m.tool_calls }}{{ m.content }}{% endfor %}{{ tools }}",
    models=("qwen",),
)


def findings(config: BackendConfig = CONFIG, **changed: Any) -> list[Finding]:
    fields = {name: getattr(GOOD, name) for name in GOOD.__struct_fields__}
    return [*of_backend(config, Capabilities(**{**fields, **changed}), Settings())]


def advice(**changed: Any) -> str:
    return " ".join(f"{f.text} → {f.remedy}" for f in findings(**changed) if f.level == "advice")


def test_a_good_backend_has_one_line() -> None:
    (only,) = findings()
    assert only == Finding("ok", "backend here", "llama-server, qwen, 4 slots of 8192 tokens")


def test_a_router_is_recognized() -> None:
    (only,) = findings(dialect=ROUTER)
    assert "several models" in only.text


def test_slots_that_are_not_reported_are_told() -> None:
    assert "does not report its slots" in advice(slots=0)
    assert "6 slots" in findings(BackendConfig(url="http://a", name="a", slots=6), slots=0)[0].text


def test_a_context_that_np_cuts_into_small_parts_has_a_remedy() -> None:
    assert "-c 32768" in advice(n_ctx=1024)
    assert not advice(n_ctx=1024, slots=1)


def test_a_server_that_forgets_prompts_gets_its_flag() -> None:
    assert "--slot-save-path" in advice(slot_save=False)
    assert not advice(slot_save=False, ram_cache=True)
    assert not advice(slot_save=False, modern_sampling=False)


def test_a_missing_or_broken_template_is_told() -> None:
    assert "--chat-template" in advice(template="", models=("mystery",))
    assert not advice(template="")
    assert "the format qwen, by its model's name" in findings(template="")[-1].text
    assert "read from its model file" in findings(template_from="file")[-1].text
    assert "cannot be used" in advice(template="{% for %}")
    assert not advice(template="", native=True)
    assert any("no place for tools" in f.text for f in findings(template="{{ messages }}"))


TOOLS = "{{ tools }}{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}"
CALLS = "{% for m in messages %}{{ m.tool_calls }}{{ m.content }}{% endfor %}"


def test_a_template_that_loses_parts_of_calls_is_told() -> None:
    assert "loses arguments of calls: " in advice(template=TOOLS)
    unused = findings(template="{% if tools %}{% endif %}" + CALLS)
    assert any("no place for tools" in finding.text for finding in unused)
    assert not advice(template="{{ tools }}" + CALLS)
    refusing = "{{ tools }}{{ raise_exception('only users') }}"
    assert not advice(template=refusing)


@pytest.mark.parametrize(
    "path", sorted((templates() / "chat").glob("*.jinja")), ids=lambda p: p.stem
)
def test_our_templates_lose_nothing(path: Path) -> None:
    assert not advice(template=path.read_text("utf-8"))


def test_profile_and_kinds_of_the_servers_own_route_are_told() -> None:
    profile = of_profile(CONFIG, Prompter(compile_template(GOOD.template, "m")))
    assert (profile.level, profile.about) == ("ok", "backend here")
    assert profile.text.startswith("system messages: ")
    assert "; ends: " in profile.text
    found = verdict({"plain": "same", "tools": "differs", "effort": "differs"}, complete=True)
    (line,) = of_verdict(CONFIG, found)
    assert "tools, effort" in line.text
    assert not [*of_verdict(CONFIG, UNKNOWN)]


def test_a_build_with_known_faults_is_a_problem() -> None:
    (found,) = (one for one in findings(build="b8000-abc") if one.level == "problem")
    assert "CVE-2026-21869" in found.text
    assert "b8911" in found.remedy
    assert len(findings(build="b1-abc")) == 1


def test_missing_vectors_have_their_flags() -> None:
    assert of_vectors("embeddings", "here", "").level == "ok"
    assert "--embeddings" in of_vectors("embeddings", "here", "no").remedy
    assert "--reranking" in of_vectors("rankings", "here", "no").remedy


def test_a_lost_backend_says_what_to_do() -> None:
    assert "start it" in of_lost_backend(CONFIG, "the backend is not responding").remedy
    assert "api_key" in of_lost_backend(CONFIG, "the backend rejects our API key").remedy
    assert 'kind = "openai"' in of_lost_backend(CONFIG, "no token", "openai").remedy
    assert "correct the address" in of_lost_backend(CONFIG, "no token", "other").remedy


def test_an_open_address_without_a_key_is_a_problem() -> None:
    (only,) = of_access(Settings(host="0.0.0.0"), None)
    assert only.level == "problem"
    assert "--api-key" in only.remedy
    (local,) = of_access(Settings(), None)
    assert local.level == "ok"


def test_a_key_file_that_others_can_read_is_a_problem() -> None:
    found = list(of_access(Settings(api_key_file="keys"), 0o100644))
    assert found[-1].remedy == "chmod 600 keys"
    assert all(f.level == "ok" for f in of_access(Settings(api_key_file="keys"), 0o100600))


def test_little_space_and_few_files_are_told() -> None:
    assert of_space("/data", LITTLE_SPACE - 1).level == "problem"
    assert of_space("/data", LITTLE_SPACE).level == "ok"
    assert "cannot be written" in of_space("/data", None).text
    assert of_files(256).level == "advice"
    assert of_files(4096).level == "ok"


@pytest.fixture
def nowhere(tmp_path: Path) -> tuple[str, ...]:
    return ("--llama-api", "http://127.0.0.1:9", "--data", str(tmp_path / "data"))


def test_doctor_names_an_unreachable_backend_and_fails(
    nowhere: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["doctor", *nowhere]) == 1
    told = capsys.readouterr().out
    assert "problem  backend 127.0.0.1:9" in told
    assert "→ start it" in told
    assert not (tmp_path / "data").exists()


def test_doctor_prints_json(nowhere: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", *nowhere]) == 1
    levels = {finding["about"]: finding["level"] for finding in json.loads(capsys.readouterr().out)}
    assert levels["backend 127.0.0.1:9"] == "problem"
    assert levels["data"] == "ok"


def test_doctor_refuses_a_wrong_setting_as_the_server_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor", "--slots", "many"]) == 2
    assert "--slots" in capsys.readouterr().err


def test_doctor_tells_redis_and_a_database_that_are_away(nowhere: tuple[str, ...]) -> None:
    flags = (
        "--state",
        "redis://127.0.0.1:9/0",
        "--database",
        "postgresql://me:secret@127.0.0.1:9/x",
    )
    found = {finding.about: finding for finding in doctor.examine(load([*nowhere, *flags], {}))}
    assert found["state"].level == found["database"].level == "problem"
    assert "secret" not in str(found)


def test_tables_of_other_versions_are_told() -> None:
    def told(revision: str) -> tuple[str, str]:
        finding = of_tables("SQLite", revision, "0030", "slotproxy backup FILE")
        return finding.level, finding.remedy

    assert told("0030") == told("") == ("ok", "")
    assert told("0021") == ("advice", "make a backup before: slotproxy backup FILE")
    level, remedy = told("0020")
    assert level == "problem"
    assert "start slotproxy 0.1" in remedy
    level, remedy = told("0031")
    assert level == "problem"
    assert "install" in remedy


def _database(folder: Path, revision: str) -> sqlite3.Connection:
    connection = sqlite3.connect(folder / "slotproxy.db", isolation_level=None)
    connection.execute("pragma journal_mode = wal")
    connection.execute("create table alembic_version (version_num text)")
    connection.execute("insert into alembic_version values (?)", [revision])
    return connection


def _found(settings: Settings, about: str) -> list[Finding]:
    return [one for one in doctor.storage(settings) if one.about == about]


def test_file_of_a_later_version_is_a_problem_and_stays_as_it_is(tmp_path: Path) -> None:
    _database(tmp_path, "9999").close()
    before = (tmp_path / "slotproxy.db").read_bytes()
    (found,) = _found(Settings(data=str(tmp_path)), "database")
    assert found.level == "problem"
    assert "9999" in found.text
    assert [path.name for path in tmp_path.iterdir()] == ["slotproxy.db"]
    assert (tmp_path / "slotproxy.db").read_bytes() == before


def test_file_that_is_locked_or_damaged_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "WRITER", 0.05)
    with closing(_database(tmp_path, newest_revision())) as other:
        settings = Settings(data=str(tmp_path))
        assert _found(settings, "database")[0].level == "ok"
        other.execute("begin immediate")
        (locked,) = _found(settings, "database")
    assert (locked.level, locked.remedy) == ("problem", "end the program that keeps it locked")
    (tmp_path / "slotproxy.db").write_bytes(b"no database" * 1000)
    (damaged,) = _found(settings, "database")
    assert "slotproxy restore" in damaged.remedy


def test_database_in_a_named_file_is_not_created(tmp_path: Path) -> None:
    settings = Settings(data=str(tmp_path), database=f"sqlite:///{tmp_path}/new/kept.db")
    assert not _found(settings, "database")
    assert not [*tmp_path.iterdir()]


def test_folder_on_a_small_file_system_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = SimpleNamespace(free=LITTLE_SPACE // 2)
    monkeypatch.setattr("shutil.disk_usage", lambda path: small)
    (found,) = _found(Settings(data=str(tmp_path / "new")), "data")
    assert found.level == "problem"
    assert "0.5 GiB" in found.text


def test_address_that_cannot_be_listened_on_has_a_remedy() -> None:
    assert of_port("127.0.0.1:8081", "in use", taken=True, ours=True).level == "ok"
    assert "--port" in of_port("127.0.0.1:80", "in use", taken=True, ours=False).remedy
    assert "--host" in of_port("192.0.2.1:80", "not ours", taken=False, ours=False).remedy


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Mapping[str, Any]], int]]:
    """Factory: the port of a server with these documents by path, which refuses all else."""
    monkeypatch.setattr(discovery, "PATIENCE", 60.0)
    running = []

    def start(answers: Mapping[str, Any]) -> int:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = json.dumps(answers.get(self.path)).encode()
                self.send_response(200 if self.path in answers else 404)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                """Nothing."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        running.append(server)
        return server.server_address[1]

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("status", "level"), [("ok", "ok"), ("fine", "problem")])
def test_port_of_another_program_is_told_from_that_of_a_slotproxy(
    status: str, level: str, serving: Callable[[Mapping[str, Any]], int]
) -> None:
    port = serving({"/llm/livez": {"status": status}})
    (found,) = doctor._port(Settings(host="0.0.0.0", port=port, api_prefix="/llm"))
    assert found.level == level


@pytest.mark.parametrize(
    ("answers", "remedy"),
    [({"/v1/models": {"data": [{"id": "m"}]}}, 'kind = "openai"'), ({}, "correct the address")],
)
def test_address_of_another_server_is_told(
    answers: Mapping[str, Any], remedy: str, serving: Callable[[Mapping[str, Any]], int]
) -> None:
    url = f"http://127.0.0.1:{serving(answers)}"
    (found,) = (one for one in doctor.examine(Settings(llama_api=(url,))) if url[7:] in one.about)
    assert found.level == "problem"
    assert remedy in found.remedy


def test_free_port_and_socket_file_need_no_finding() -> None:
    for settings in (Settings(port=0), Settings(host="unix:/run/x"), Settings(port=held_port())):
        assert not [*doctor._port(settings)]


def test_program_of_a_model_to_start_must_exist(tmp_path: Path) -> None:
    (tmp_path / "server").touch(mode=0o755)
    models = [
        ModelConfig(name=name, command=(program, "${PORT}"), folder=str(tmp_path))
        for name, program in (("a", "sh"), ("b", "./server"), ("c", "./absent"))
    ]
    found = doctor.examine(Settings(llama_api=(), model=tuple(models)))
    levels = {one.about: one.level for one in found if one.about.startswith("model")}
    assert levels == {"model a": "ok", "model b": "ok", "model c": "problem"}


def test_backend_that_loads_its_model_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[float] = []

    class Loading(ScriptedDriver):
        def probe(self, deadline: float, learned: Learned = ignore) -> Capabilities:
            tries.append(deadline)
            if len(tries) == 1:
                raise BackendDown("the backend is loading its model")
            return GOOD

    monkeypatch.setattr(doctor, "PAUSE", 0.0)
    monkeypatch.setattr(doctor, "backend_of", lambda settings, config: Backend("a", "", Loading()))
    found = doctor.examine(Settings(llama_api=("http://a",)))
    assert "ok" in {one.level for one in found if one.about.startswith("backend")}


@pytest.mark.parametrize(("waits", "known"), [(False, True), (True, None)])
def test_embedding_has_a_deadline(waits: bool, known: bool | None) -> None:
    class Silent(ScriptedDriver):
        def embed(self, inputs: Any, caps: Capabilities, cancel: Cancel) -> Any:
            if waits:
                cancel.wait(60)
                cancel.check()

    begun = time.monotonic()
    assert doctor._embeds(Silent(), GOOD, 0.05 if waits else 5.0) is known
    assert time.monotonic() < begun + 10
