"""The status page in a browser: contents, live updates and accessibility."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tools.processes import Gateway, ModelServer, ask, held_port

from .conftest import Open


def chat(site: Gateway, text: str = "Hello!", tokens: int = 24) -> None:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens}
    assert ask(f"{site.url}/v1/chat/completions", body, seconds=60)[0] == 200


def shown(page: Any, name: str) -> str:
    text: str = page.locator(f'[data-part="numbers"] [data-key="{name}"] .number').inner_text()
    return text


def test_status_page_shows_backends_and_slots_live(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/status")
    page.locator(".backend .state", has_text="up").wait_for()
    assert page.locator(".slots .slot").count() == 4
    before = page.locator('[data-key="errors"] .note').inner_text()
    for number in range(3):
        chat(site, f"Hello number {number}!")
    page.locator('.slot[data-kind="held"]').first.wait_for()
    note = page.locator('[data-key="errors"] .note')
    while note.inner_text() == before:  # the time limit of the test ends it
        page.wait_for_timeout(50)
    assert shown(page, "first_token") != "–"
    assert page.locator(".plot canvas").count() == 3
    # A line is drawn: something in the plot has the accent's colour.
    drawn = page.locator(".plot canvas").first.evaluate(
        """(canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height)
             .data.some((value, n) => n % 4 === 2 && value > 150)"""
    )
    assert drawn


def test_lost_connection_is_shown_and_recovers(
    model_server: ModelServer, visit: Open, tmp_path: Path
) -> None:
    flags = ["--llama-api", model_server.url, "--slots", "4", "--data", str(tmp_path / "data")]
    own = Gateway(flags, tmp_path / "gateway.log", port=held_port())
    try:
        own.start()
        page = visit(f"{own.url}/status")
        live = page.locator('[data-part="live"][data-state="up"]')
        live.wait_for()
        own.kill()
        page.locator('[data-part="live"][data-state="down"]').wait_for()
        own.start()
        live.wait_for()
    finally:
        own.kill()


def test_requests_are_counted_over_a_minute_and_ticks_are_whole(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/status")
    page.locator(".backend").first.wait_for()
    columns, whole, spans = page.evaluate(
        """async () => {
          const { COUNT, Hour, SPAN } = await import("/static/panels/plots.js");
          const hour = new Hour();
          // A step is ten seconds: the rates are of 2, 3 and 1 requests.
          hour.add({
            step: 10, span: 200, at: [1030, 1040, 1100], requests: [0.2, 0.3, 0.1],
            first_token: [null, 0.5, 0.1], speed: [null, 3, 4],
          });
          return [hour.columns(1110, 1020), COUNT.steps.every(Number.isInteger), SPAN.steps];
        }"""
    )
    by_time = dict(zip(columns[0], columns[1], strict=True))
    assert [by_time[at] for at in (1000, 1030, 1040, 1080, 1090, 1100, 1110)] == [
        *(None, 2, 5, 5, 3, 1, 1)
    ]
    assert whole
    assert spans == sorted(set(spans))


def test_model_that_is_not_loaded_or_has_no_file_is_described_in_the_page_s_language(
    visit: Open, tmp_path: Path
) -> None:
    config = tmp_path / "slotproxy.toml"
    config.write_text("[[model]]\nname = 'lost'\ncommand = 'sh -m /nope/x.gguf ${PORT}'\n")
    flags = ["--config", str(config), "--data", str(tmp_path / "data")]
    own = Gateway(flags, tmp_path / "gateway.log", port=held_port())
    try:
        own.start()
        page = visit(f"{own.url}/status", language="zh")
        page.locator(".backend dd", has_text="未加载").wait_for()
        assert "not loaded" not in page.locator(".backend").inner_text()
        body = {"model": "lost", "messages": [{"role": "user", "content": "Hi"}]}
        assert ask(f"{own.url}/v1/chat/completions", body, seconds=60)[0] == 502
        page.locator(".backend .error", has_text="/nope/x.gguf").wait_for()
    finally:
        own.kill()
