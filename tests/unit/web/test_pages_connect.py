"""The page that connects other programs, and the texts that it gives readers to paste."""

from __future__ import annotations

import html
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.backends.driver import Capabilities
from proxy.web.pages import connect
from tests.fakes import ScriptedDriver, client
from tests.unit.web.account_client import keyed
from tests.unit.web.test_pages_session import BROWSER, sign_in

VALUES = {
    "address": "http://10.0.0.5:8081/llm",
    "key": "sk-0123",
    "model": "model 1",
    **connect.sizes(8192),
}
HOSTILE = ('a"b', "a'b", "a\\b", "$(reboot)", "`reboot`", "a\nb", "a!b", "{key}", "a\u2028b", "")
PARTS = [
    pytest.param(program, part, id=f"{program.id}-{number}")
    for program in connect.programs()
    for number, part in enumerate(program.part)
]


def texts_of(page: str) -> dict[str, list[str]]:
    """The texts to paste, by program."""
    return {
        program: [
            html.unescape(re.sub("<[^>]*>", "", code))
            for code in re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", section, re.S)
        ]
        for program, section in re.findall(r'data-program="([\w-]+)"(.*?)</section>', page, re.S)
    }


@pytest.mark.parametrize(("program", "part"), PARTS)
def test_values_are_quoted_where_they_may_have_blanks(
    program: connect.Program, part: connect.Part
) -> None:
    for name in ("key", "model"):
        for place in re.finditer(rf"\{{{name}\}}", part.text):
            if part.language == "text":
                continue
            line = part.text[: place.start()].rpartition("\n")[2]
            assert line.count("'") % 2 or line.count('"') % 2, f"{program.id}: {line}"
    assert "{address}" not in connect.filled(part.text, VALUES)


READ: dict[str, Callable[[str], Any]] = {
    "toml": tomllib.loads,
    "json": json.loads,
    "yaml": yaml.safe_load,
}


FILES = [
    pytest.param(part.language, part.text, id=program.id)
    for program in connect.programs()
    for part in program.part
    if part.language in READ
]


@pytest.mark.parametrize(("language", "text"), FILES)
def test_files_are_well_formed_and_have_the_values(language: str, text: str) -> None:
    assert "sk-0123" not in text
    read = READ[language](connect.filled(text, {**VALUES, "model": "a model: #1"}))
    assert "a model: #1" in str(read) and "http://10.0.0.5:8081/llm/v1" in str(read)


@pytest.mark.parametrize("value", HOSTILE)
def test_value_that_would_end_a_quoted_text_is_not_filled_in(value: str) -> None:
    assert connect.plain(value, "MODEL") == "MODEL"


@pytest.mark.parametrize("value", ["qwen3:8b", "org/Model-7B.Q4_K_M", "模型 1", "sk-a+b/c=="])
def test_usual_names_and_keys_are_filled_in(value: str) -> None:
    assert connect.plain(value, "MODEL") == value


def test_script_knows_the_same_rule_for_values() -> None:
    script = Path(connect.__file__).parents[1] / "static" / "panels" / "connect.js"
    (rule,) = re.findall(r"const PLAIN = /\^(.*)\$/u;", script.read_text("utf-8"))
    assert rule.replace(r"[\p{L}\p{N}_]", r"\w") == connect.PLAIN.pattern.replace('\\"', '"')


def test_gateway_without_keys_needs_no_key_and_names_the_address_of_the_request() -> None:
    page = client(ScriptedDriver()).get("/connect", headers={**BROWSER, "Host": "localhost:9"})
    texts = texts_of(page.text)
    assert set(texts) == {program.id for program in connect.programs()}
    assert texts["openai"][1].startswith("from openai import OpenAI")
    assert 'base_url="http://localhost:9/v1", api_key="anything"' in texts["openai"][1]
    assert 'model="scripted"' in texts["openai"][1]
    assert "ollama run 'scripted'" in texts["ollama"][0]
    assert 'data-part="key"' not in page.text and 'data-part="make"' not in page.text


def test_address_has_the_prefix_and_the_scheme_that_the_browser_speaks() -> None:
    visitor = client(ScriptedDriver(), api_prefix="/llm")
    headers = {**BROWSER, "Host": "gateway.localhost", "X-Forwarded-Proto": "https"}
    texts = texts_of(visitor.get("/llm/connect", headers=headers).text)
    assert "export ANTHROPIC_BASE_URL='https://gateway.localhost/llm'" in texts["claude-code"][0]


def test_only_administrators_can_make_a_key_there(tmp_path: Path) -> None:
    http = keyed(ScriptedDriver(), tmp_path)
    assert http.app.test_client().get("/connect", headers=BROWSER).status_code == 302
    for key, makes in (("sk-ops", True), ("sk-alice", False)):
        visitor = http.app.test_client()
        sign_in(visitor, key)
        page = visitor.get("/connect", headers=BROWSER).text
        assert ('data-part="make"' in page) is makes
        assert ('data-api="/pages/api/accounts"' in page) is makes
        assert 'data-part="key"' in page and key not in page
        assert "YOUR_KEY" in texts_of(page)["curl"][0]
        assert "ollama run" not in str(texts_of(page))


def test_only_models_that_the_key_may_use_are_offered(tmp_path: Path) -> None:
    http = keyed(ScriptedDriver(), tmp_path)
    key = http.make(models=["other"])["key"]
    visitor = http.app.test_client()
    sign_in(visitor, key)
    page = visitor.get("/connect", headers=BROWSER).text
    assert "scripted" not in page and '"model": "MODEL"' in texts_of(page)["curl"][0]


def test_name_of_a_model_from_its_server_cannot_become_a_command() -> None:
    driver = ScriptedDriver(caps=Capabilities(dialect="2023", models=("'; reboot; '",)))
    texts = texts_of(client(driver).get("/connect", headers=BROWSER).text)
    assert "reboot" not in str(texts) and "export ANTHROPIC_MODEL='MODEL'" in str(texts)


def test_sizes_follow_from_the_context() -> None:
    assert connect.sizes(8192) == {"context": 8192, "input": 6144, "output": 2048}
    assert connect.sizes(131072)["output"] == 4096
    assert connect.sizes(0) == connect.sizes(connect.CONTEXT)


def test_page_warns_where_the_context_is_too_small_for_a_program() -> None:
    small, large = (
        client(ScriptedDriver(caps=Capabilities(dialect="2023", n_ctx=size, models=("m",))))
        .get("/connect", headers=BROWSER)
        .text
        for size in (8192, 65536)
    )
    shown = re.compile(r'data-tokens="(\d+)" (?!hidden)')
    assert shown.findall(small) == ["20000"] and shown.findall(large) == []
