"""The findings of `slotproxy doctor`, and the output and status of the command."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from proxy.__main__ import main
from proxy.app import doctor
from proxy.app.doctor import LITTLE_SPACE, Finding
from proxy.backends.driver import Capabilities, OnCapabilities, ignore
from proxy.backends.pools import Backend
from proxy.backends.probe import ROUTER
from proxy.config import BackendConfig, ModelConfig, Settings, load
from proxy.errors import BackendDown
from proxy.runtime.installation import templates
from proxy.store.revisions import NEWEST
from tests.fakes import ScriptedDriver

from .conftest import Serving

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
    return [*doctor.reached_backend(config, Capabilities(**{**fields, **changed}), Settings())]


def test_a_good_backend_has_its_line_and_its_templates() -> None:
    first, template = findings()
    assert first == Finding("ok", "backend here", "llama-server, qwen, 4 slots of 8192 tokens")
    assert (template.level, template.about) == ("ok", "backend here")
    assert template.text.startswith("system messages: ") and "; ends: " in template.text


@pytest.mark.parametrize(
    ("changed", "level", "words"),
    [
        ({"dialect": ROUTER}, "ok", "several models"),
        ({"slots": 0}, "advice", "does not report its slots"),
        ({"n_ctx": 1024}, "advice", "-c 32768"),
        ({"n_ctx": 1024, "slots": 1}, "", ""),
        ({"slot_save": False}, "advice", "--slot-save-path"),
        ({"slot_save": False, "ram_cache": True}, "", ""),
        ({"slot_save": False, "modern_sampling": False}, "", ""),
        ({"template": "", "models": ("mystery",)}, "advice", "--chat-template"),
        ({"template": ""}, "ok", "the format qwen, by its model's name"),
        ({"template_from": "file"}, "ok", "read from its model file"),
        ({"template": "{% for %}"}, "advice", "cannot be used"),
        ({"template": "", "native": True}, "", ""),
        ({"template": "{{ messages }}"}, "ok", "describes it in the messages"),
        ({"build": "b8000-abc"}, "problem", "can overwrite the memory"),
        ({"build": "b8000-abc"}, "problem", "b8911"),
        ({"build": "b8911-abc"}, "", ""),
        ({"build": "b1-abc"}, "", ""),  # built without git's history
    ],
)
def test_findings_about_a_backend(changed: dict[str, Any], level: str, words: str) -> None:
    listed = findings(**changed)
    if level:
        assert [f for f in listed if f.level == level and words in f"{f.text} {f.remedy}"]
    else:
        assert {finding.level for finding in listed} == {"ok"}


def test_slots_of_the_settings_count() -> None:
    assert "6 slots" in findings(BackendConfig(url="http://a", name="a", slots=6), slots=0)[0].text


@pytest.mark.parametrize(
    "path", sorted((templates() / "chat").glob("*.jinja")), ids=lambda p: p.stem
)
def test_our_templates_can_be_used(path: Path) -> None:
    assert {finding.level for finding in findings(template=path.read_text("utf-8"))} == {"ok"}


@pytest.mark.parametrize(
    ("error", "cure", "remedy"),
    [
        ("the backend is not responding", "", "start it"),
        ("the backend rejects our API key", "", "api_key"),
        ("no token", "use the address http://a", "use the address"),
    ],
)
def test_a_lost_backend_says_what_to_do(error: str, cure: str, remedy: str) -> None:
    assert remedy in doctor.lost_backend("backend here", error, cure).remedy


def test_access_is_judged_by_the_address() -> None:
    everybody = doctor.access(Settings(host="0.0.0.0"))
    assert everybody.level == "problem" and "--api-key" in everybody.remedy
    assert doctor.access(Settings()).level == "ok"


@pytest.fixture
def nowhere(tmp_path: Path) -> tuple[str, ...]:
    return ("--llama-api", "http://127.0.0.1:9", "--data", str(tmp_path / "data"))


def test_doctor_names_an_unreachable_backend_and_fails(
    nowhere: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["doctor", *nowhere]) == 1
    output = capsys.readouterr().out
    assert "problem  backend 127.0.0.1:9" in output
    assert "→ start it" in output
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
    examined = {finding.about: finding for finding in doctor.examine(load([*nowhere, *flags], {}))}
    assert examined["state"].level == examined["database"].level == "problem"
    assert "secret" not in str(examined)


def test_tables_of_other_versions_are_told() -> None:
    def finding_of(revision: str) -> tuple[str, str]:
        finding = doctor.tables("SQLite", revision, "0030", "slotproxy backup FILE")
        return finding.level, finding.remedy

    assert finding_of("0030") == finding_of("") == ("ok", "")
    assert finding_of("0021") == ("advice", "make a backup before: slotproxy backup FILE")
    level, remedy = finding_of("0020")
    assert level == "problem"
    assert "start slotproxy 0.1" in remedy
    level, remedy = finding_of("0031")
    assert level == "problem"
    assert "install" in remedy


def _database(folder: Path, revision: str) -> sqlite3.Connection:
    connection = sqlite3.connect(folder / "slotproxy.db", isolation_level=None)
    connection.execute("pragma journal_mode = wal")
    connection.execute("create table alembic_version (version_num text)")
    connection.execute("insert into alembic_version values (?)", [revision])
    return connection


def _found(settings: Settings, about: str) -> list[Finding]:
    return [finding for finding in doctor.storage(settings) if finding.about == about]


def test_file_of_a_later_version_is_a_problem_and_stays_as_it_is(tmp_path: Path) -> None:
    _database(tmp_path, "9999").close()
    before = (tmp_path / "slotproxy.db").read_bytes()
    (finding,) = _found(Settings(data=str(tmp_path)), "database")
    assert finding.level == "problem"
    assert "9999" in finding.text
    assert [path.name for path in tmp_path.iterdir()] == ["slotproxy.db"]
    assert (tmp_path / "slotproxy.db").read_bytes() == before


def test_file_that_is_locked_or_damaged_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "WRITER", 0.05)
    with closing(_database(tmp_path, NEWEST)) as other:
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
    (finding,) = _found(Settings(data=str(tmp_path / "new")), "data")
    assert finding.level == "problem"
    assert "0.5 GiB" in finding.text


def test_folder_of_another_user_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    (finding,) = _found(Settings(data="/data"), "data")
    assert "cannot be written" in finding.text


LISTED: Mapping[str, Any] = {"/v1/models": {"data": [{"id": "m"}]}}


@pytest.mark.parametrize(
    ("answers", "path", "kind", "level", "words"),
    [
        (LISTED, "", "auto", "ok", "openai, m"),
        (LISTED, "/v1", "auto", "ok", "openai, m"),
        (LISTED, "/api", "auto", "problem", "use this address"),
        (LISTED, "", "llamacpp", "problem", "remove kind"),
        ({}, "", "auto", "problem", "correct its address"),
    ],
)
def test_the_server_at_an_address_is_named(
    answers: Mapping[str, Any],
    path: str,
    kind: Literal["auto", "llamacpp"],
    level: str,
    words: str,
    serving: Serving,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxy.app.discovery.PORTS", ())
    backend = BackendConfig(name="b", url=f"http://127.0.0.1:{serving(answers)}{path}", kind=kind)
    examined = doctor.examine(Settings(llama_api=(), backend=(backend,)))
    (finding,) = (finding for finding in examined if finding.about == "backend b")
    assert finding.level == level
    assert words in f"{finding.text} {finding.remedy}"


def test_a_refused_address_names_the_server_on_a_usual_port(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = serving({**LISTED, "/api/version": {"version": "0.12"}})
    monkeypatch.setattr("proxy.app.discovery.PORTS", (port,))
    examined = doctor.examine(Settings(llama_api=("http://127.0.0.1:9",)))
    (finding,) = (finding for finding in examined if finding.about == "backend 127.0.0.1:9")
    assert "connection refused" in finding.text
    assert f"http://127.0.0.1:{port}, where Ollama answers" in finding.remedy


def test_program_of_a_model_to_start_must_exist(tmp_path: Path) -> None:
    (tmp_path / "server").touch(mode=0o755)
    models = [
        ModelConfig(name=name, command=(program, "${PORT}"), folder=str(tmp_path))
        for name, program in (("a", "sh"), ("b", "./server"), ("c", "./absent"))
    ]
    examined = doctor.examine(Settings(llama_api=(), model=tuple(models)))
    levels = {f.about: f.level for f in examined if f.about.startswith("model")}
    assert levels == {"model a": "ok", "model b": "ok", "model c": "problem"}


def test_file_without_the_magic_of_gguf_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "llama-server").touch(mode=0o755)
    models = []
    for name, data in (("good", b"GGUF"), ("cards", b"PWRI"), ("page", b"<html>"), ("empty", b"")):
        (tmp_path / f"{name}.gguf").write_bytes(data)
        command = ("./llama-server", "--port", "${PORT}", "-m", f"{name}.gguf")
        models.append(ModelConfig(name=name, command=command, folder=str(tmp_path)))
    examined = doctor.examine(Settings(llama_api=(), model=tuple(models)))
    wrong = [(finding.about, finding.text) for finding in examined if finding.level == "problem"]
    assert wrong[:2] == [
        (f"model {name}", f"its file {tmp_path}/{name}.gguf is not a GGUF file")
        for name in ("page", "empty")
    ]


def test_backend_that_loads_its_model_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[float] = []

    class Loading(ScriptedDriver):
        def probe(self, deadline: float, learned: OnCapabilities = ignore) -> Capabilities:
            tries.append(deadline)
            if len(tries) == 1:
                raise BackendDown("the backend is loading its model")
            return GOOD

    monkeypatch.setattr(doctor, "PAUSE", 0.0)
    monkeypatch.setattr(doctor, "backend_of", lambda settings, config: Backend("a", "", Loading()))
    examined = doctor.examine(Settings(llama_api=("http://a",)))
    assert "ok" in {finding.level for finding in examined if finding.about.startswith("backend")}


def test_wrong_llama_server_is_one_problem_whatever_the_models(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF")
    flags = ["--models-dir", str(tmp_path), "--llama-server", "/no/llama-server"]
    examined = [*doctor.examine(load([*flags, "--data", str(tmp_path)], {}))]
    (wrong,) = (finding for finding in examined if finding.level == "problem")
    assert wrong == Finding(
        "problem",
        "llama_server",
        "/no/llama-server does not exist",
        "write its path in --llama-server",
    )
