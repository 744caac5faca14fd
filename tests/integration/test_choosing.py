"""A route with rules before two real servers of 2023, and a reload of the rules."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from tests.fakes import wait_until
from tests.integration.asking import fetch

from .conftest import StartGateway, StartServer
from .test_hosted_models import LEGACY, table

CONFIG = """
[[backend]]
name = "brief"
url = "{brief}"
model = "brief"

[[backend]]
name = "large"
url = "{large}"
model = "large"

[[route]]
model = "auto"
rules = [{{ under = {under}, models = ["brief"] }}, {{ models = ["large"] }}]
"""
WORDS = "sail " * 100


def test_conversation_keeps_its_model_and_a_reload_changes_the_rules(
    start_server: StartServer, gateway: StartGateway, tmp_path: Path
) -> None:
    brief, large = (start_server("llama-2023", slots=1) for _ in range(2))
    file = tmp_path / "slotproxy.toml"

    def write(under: int) -> None:
        file.write_text(CONFIG.format(brief=brief.url, large=large.url, under=under))

    write(under=60)
    running = gateway("--config", str(file))

    def ask(messages: list[dict[str, str]], path: str = "/v1/chat/completions") -> Any:
        body = {"model": "auto", "messages": messages, "max_tokens": 4}
        status, headers, answer = fetch(running.url, path, body)
        assert status == 200, answer
        if path == "/v1/explain":
            return answer["chosen"]
        assert headers["x-slotproxy-backend"] == headers["x-slotproxy-model"] == answer["model"]
        messages.append(answer["choices"][0]["message"])
        return answer

    talk = [{"role": "user", "content": "Hello"}]
    assert ask(talk)["model"] == "brief"
    talk.append({"role": "user", "content": WORDS})
    chosen = ask(talk, "/v1/explain")
    assert (chosen["model"], chosen["rule"]) == ("brief", 0)
    warm = ask(talk)
    assert warm["model"] == "brief"
    assert warm["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert ask([{"role": "user", "content": WORDS}])["model"] == "large"
    write(under=6000)
    running.send(signal.SIGHUP)
    fresh = [{"role": "user", "content": f"Again: {WORDS}"}]
    wait_until(lambda: ask(fresh, "/v1/explain")["model"] == "brief", 30)


RULES = """
[[route]]
model = "auto"
rules = [{ loaded = true, models = ["brief"] }, { models = ["large"] }]
"""


def test_rule_takes_a_model_that_is_loaded_and_its_table_applies(
    serve: StartGateway, made_up_model: Path, tmp_path: Path
) -> None:
    tables = (
        table(name, made_up_model, tmp_path, set={"max_tokens": most})
        for name, most in (("brief", 2), ("large", 3))
    )
    running = serve(
        "\n".join((*tables, RULES)).replace('{"max_tokens": ', "{max_tokens = "), *LEGACY
    )

    def ask(model: str, text: str) -> tuple[str, int]:
        body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 9}
        status, _, answer = fetch(running.url, "/v1/chat/completions", body)
        assert status == 200, answer
        return answer["model"], answer["usage"]["completion_tokens"]

    assert ask("auto", "Hello") == ("large", 3)
    assert ask("brief", "Load it") == ("brief", 2)
    assert ask("auto", "Good day") == ("brief", 2)
    assert ask("auto", "Hello") == ("large", 3)  # the conversation keeps its model
