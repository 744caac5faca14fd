"""The findings of `slotproxy doctor`, and what the command prints and returns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.__main__ import main
from proxy.app import doctor
from proxy.app.findings import (
    LITTLE_SPACE,
    Finding,
    of_access,
    of_backend,
    of_files,
    of_lost_backend,
    of_space,
)
from proxy.backends.driver import Capabilities
from proxy.backends.probe import ROUTER
from proxy.config import BackendConfig, ModelConfig, Settings, load

CONFIG = BackendConfig(url="http://127.0.0.1:8080", name="here")
GOOD = Capabilities(
    dialect="llama-server",
    slots=4,
    n_ctx=8192,
    queues=True,
    modern_sampling=True,
    chat=True,
    slot_save=True,
    template="{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}",
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
    assert "--chat-template" in advice(template="")
    assert "cannot be used" in advice(template="{% for %}")
    assert not advice(template="", native=True)
    assert any("no place for tools" in f.text for f in findings(template="{{ messages }}"))


def test_a_lost_backend_says_what_to_do() -> None:
    assert "start it" in of_lost_backend(CONFIG, "the backend is not responding").remedy
    assert "api_key" in of_lost_backend(CONFIG, "the backend rejects our API key").remedy


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


def test_program_of_a_model_to_start_must_exist(tmp_path: Path) -> None:
    (tmp_path / "server").touch(mode=0o755)
    models = [
        ModelConfig(name=name, command=(program, "${PORT}"), folder=str(tmp_path))
        for name, program in (("a", "sh"), ("b", "./server"), ("c", "./absent"))
    ]
    found = doctor.examine(Settings(llama_api=(), model=tuple(models)))
    levels = {one.about: one.level for one in found if one.about.startswith("model")}
    assert levels == {"model a": "ok", "model b": "ok", "model c": "problem"}
