"""The models page in a browser: real servers are loaded and unloaded, in room for two of three."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import wait_until
from tools import made_up_model, servers
from tools.processes import Gateway, ask

from .conftest import OPENED, PHONE, Open

SLOW = 5  # seconds that a model takes longer to load, at least
Start = Callable[..., Gateway]


def table(name: str, folder: Path, *before: str, **keys: Any) -> str:
    """A [[model]] table. The weights are made up: the model never ends an answer by itself."""
    binary = servers.find("llama-2023")
    if binary is None:
        pytest.skip("llama-2023 is not there")
    weights = str(keys.pop("weights", made_up_model.cached()))
    words = [*before, str(binary), "-m", weights, "--host", "127.0.0.1", "--port", "${PORT}"]
    words += ["-np", "2", "-c", "131072", "-b", "64", "-t", "1", "-cb"]
    keys = {"name": name, "command": words, "folder": str(folder), "stop_timeout": 1, **keys}
    return "\n".join(["[[model]]", *[f"{key} = {json.dumps(v)}" for key, v in keys.items()], ""])


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Factory: a gateway with these tables, 2 GiB of memory, and these flags."""
    started: list[Gateway] = []

    def begin(tables: list[str], *flags: str) -> Gateway:
        folder = tmp_path_factory.mktemp("models")
        file = folder / "slotproxy.toml"
        file.write_text("\n".join(tables))
        words = ["--config", str(file), "--memory", "2GiB", "--chat-template", "legacy"]
        gateway = Gateway([*words, "--data", str(folder / "data"), *flags], folder / "gateway.log")
        started.append(gateway)
        gateway.start()
        return gateway

    try:
        yield begin
    finally:
        for gateway in started:
            gateway.kill()


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model "fresh" is loaded only while this file exists."""
    return tmp_path_factory.mktemp("gate") / "open"


@pytest.fixture(scope="module")
def hosting(start: Start, gate: Path, tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    """Models of which two have room, and two broken ones. One test alone loads "fresh"."""
    folder = tmp_path_factory.mktemp("servers")
    weightless = folder / "weightless.gguf"
    weightless.write_text("GGUF, and no weights")
    wait = f"sleep {SLOW}; until [ -e '{gate}' ]; do sleep 0.1; done"
    late = ("sh", "-c", f'{wait}; exec "$@"', "sh")
    return start(
        [
            table("quick", folder, title="The quick one", memory="1GiB", ttl=600),
            table("slow", folder, memory="1GiB"),
            table("fresh", folder, *late, memory="1GiB"),
            table("third", folder, memory="1GiB"),
            table("broken", folder, weights=weightless, memory="1GiB"),
            table("lost", folder, weights=folder / "absent.gguf", memory="1GiB"),
        ]
    )


@pytest.fixture
def unloaded(hosting: Gateway) -> Iterator[Gateway]:
    """The gateway, whose models are unloaded and unpinned when the test ends."""

    def are_unloaded() -> bool:
        ask(f"{hosting.url}/unload", {})  # not those that still load
        return not json.loads(ask(f"{hosting.url}/running")[1])["running"]

    yield hosting
    for name in ("quick", "third"):
        ask(f"{hosting.url}/models/unpin", {"model": name})
    wait_until(are_unloaded, 60)


def model(page: Any, name: str) -> Any:
    return page.locator(f'.model[data-key="{name}"]')


def state(page: Any, name: str, text: str) -> Any:
    badge = model(page, name).locator(".state", has_text=text)
    badge.wait_for()
    return badge


def press(page: Any, label: str) -> None:
    page.get_by_role("button", name=label, exact=True).click()


def segment(page: Any, name: str, phase: str) -> None:
    page.locator(f'.track .segment[data-phase="{phase}"]', has_text=name).wait_for()


def begin_answer(page: Any, name: str) -> None:
    """Ask for an answer of minutes, which `answering.abort()` in the page ends."""
    page.evaluate(
        """(model) => {
          window.answering ??= new AbortController();
          const body = JSON.stringify({model, prompt: "Hello", max_tokens: 60000, stream: true});
          const headers = {"Content-Type": "application/json"};
          fetch("/v1/completions", {method: "POST", body, headers, signal: answering.signal})
            .then((answer) => answer.text()).catch(() => {});
        }""",
        name,
    )


def test_model_is_loaded_used_and_unloaded(unloaded: Gateway, visit: Open) -> None:
    page = visit(f"{unloaded.url}/models")
    state(page, "quick", "Not loaded")
    assert model(page, "quick").locator("h3").inner_text() == "The quick one"
    press(page, "Load quick")
    state(page, "quick", "Ready")
    segment(page, "quick", "loaded")
    facts = model(page, "quick").locator(".facts").first.inner_text()
    assert "took" in facts and "in 10 min" in facts and "–" not in facts
    assert "tokens of context" in model(page, "quick").locator("header").inner_text()
    assert "1 GiB of 2 GiB used, 1 GiB free" in page.locator(".memory figcaption").inner_text()
    begin_answer(page, "quick")
    state(page, "quick", "Busy, 1 of 2 slots")
    press(page, "Unload quick")
    state(page, "quick", "Stopping after 1 answer")
    segment(page, "quick", "stopping")
    page.evaluate("answering.abort()")
    state(page, "quick", "Not loaded")
    page.locator(".track .segment").wait_for(state="detached")


def test_load_shows_its_progress_and_moves_nothing(
    unloaded: Gateway, gate: Path, visit: Open
) -> None:
    page = visit(f"{unloaded.url}/models", size=PHONE)  # where lines wrap

    def places() -> Any:
        return page.locator(".model, .memory").evaluate_all(
            "(all) => all.map((node) => [node.offsetTop, node.offsetHeight])"
        )

    state(page, "fresh", "Not loaded")
    before = places()
    for text in ("the first time", "about"):
        gate.unlink(missing_ok=True)
        press(page, "Load fresh")
        state(page, "fresh", text)
        segment(page, "fresh", "loading")
        progress = model(page, "fresh").locator("progress")
        assert progress.is_visible()
        if text == "about":
            assert 0.0 <= float(progress.get_attribute("value")) <= 1.0
        else:
            assert progress.get_attribute("value") is None
        assert places() == before
        gate.touch()
        state(page, "fresh", "Ready")
        progress.wait_for(state="hidden")
        if text != "about":  # the first load shows what is known since
            model(page, "fresh").locator("summary", has_text="Chat template").wait_for()
            before = places()
        assert places() == before
        press(page, "Pin fresh")
        model(page, "fresh").locator(".badge").wait_for()
        assert places() == before
        press(page, "Unpin fresh")
        press(page, "Unload fresh")
        state(page, "fresh", "Not loaded")
    assert places() == before


def test_pinned_models_keep_others_in_line_or_out(unloaded: Gateway, visit: Open) -> None:
    page = visit(f"{unloaded.url}/models")
    for name in ("quick", "third"):
        press(page, f"Load {name}")
        state(page, name, "Ready")
    badge = model(page, "quick").locator(".badge", has_text="pinned")
    assert not badge.is_visible()
    press(page, "Pin quick")
    badge.wait_for()
    press(page, "Pin third")
    page.get_by_role("button", name="Unpin third", exact=True).wait_for()
    press(page, "Load slow")
    state(page, "slow", "Failed")
    assert "unpin other models" in model(page, "slow").locator(".failure").inner_text()
    press(page, "Unpin third")
    page.get_by_role("button", name="Pin third", exact=True).wait_for()
    press(page, "Load slow")
    state(page, "third", "Not loaded")
    state(page, "slow", "Ready")
    state(page, "quick", "Ready")


def test_failed_model_shows_its_last_lines_and_what_to_do(unloaded: Gateway, visit: Open) -> None:
    page = visit(f"{unloaded.url}/models")
    press(page, "Load broken")
    state(page, "broken", "Failed")
    failure = model(page, "broken").locator(".failure")
    assert "its server ended with exit code 1" in failure.inner_text()
    assert "correct the command or the model file" in failure.inner_text()
    failure.locator("summary").click()
    lines = failure.locator("pre").inner_text()
    assert "failed to load model" in lines
    assert "weightless.gguf" in lines  # an administrator may see the path
    press(page, "Load lost")
    state(page, "lost", "Failed")
    assert (
        "absent.gguf does not exist: correct"
        in model(page, "lost").locator(".failure").inner_text()
    )


def test_press_is_seen_at_once_and_a_refusal_takes_it_back(unloaded: Gateway, visit: Open) -> None:
    page = visit(f"{unloaded.url}/models")
    state(page, "quick", "Not loaded")
    held: list[Any] = []
    page.route("**/pages/api/models/load", lambda route: held.append(route))
    press(page, "Load quick")
    assert "Starting to load" in model(page, "quick").locator(".state").inner_text()
    assert model(page, "quick").locator("progress").is_visible()
    button = page.get_by_role("button", name="Load quick", exact=True)
    assert button.get_attribute("aria-disabled") == "true"
    refusal = {"error": {"code": "forbidden", "message": "not now"}}
    wait_until(lambda: (page.wait_for_timeout(20), held)[1], 30)
    held[0].fulfill(status=403, json=refusal)
    state(page, "quick", "Not loaded")
    assert "not now" in model(page, "quick").inner_text()
    assert button.get_attribute("aria-disabled") == "false"


def test_chat_begins_with_the_model_of_the_card(unloaded: Gateway, visit: Open) -> None:
    page = visit(f"{unloaded.url}/models")
    model(page, "third").get_by_role("link", name="Chat").click()
    page.locator(OPENED).wait_for()
    page.locator("#model-state", has_text="Loads when asked").wait_for()
    assert page.locator("[name=model]").input_value() == "third"


def test_models_of_running_servers_have_a_card_with_a_link_to_chat(
    site: Gateway, visit: Open
) -> None:
    page = visit(f"{site.url}/models")
    card = page.locator('[data-part="served-models"] .model')
    card.locator('.state[data-state="up"]').wait_for()
    assert "tokens of context" in card.inner_text()
    assert page.get_by_text("No models on demand").is_visible()
    name = card.locator("h3").inner_text()
    card.get_by_role("link", name="Chat").click()
    page.wait_for_function(
        "(name) => document.querySelector('[name=model]')?.value === name", arg=name
    )


def test_log_grows_while_it_is_open(unloaded: Gateway, visit: Open, accessible: Any) -> None:
    page = visit(f"{unloaded.url}/models")
    press(page, "Log third")
    log = page.locator("dialog .log")
    ask(f"{unloaded.url}/models/load", {"model": "third"})
    log.get_by_text("llama_model_loader").first.wait_for()
    body = {"model": "third", "prompt": "Hello", "max_tokens": 3}
    assert ask(f"{unloaded.url}/v1/completions", body, 60)[0] == 200
    page.wait_for_function(
        "() => document.querySelector('.log').textContent.includes('/completion')"
    )
    accessible(page)
    page.keyboard.press("Escape")
    log.wait_for(state="hidden")
