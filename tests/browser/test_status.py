"""The status page in a browser: contents, live updates and accessibility."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from benchmarks.stub_process import Stub
from tools.processes import Gateway, ModelServer, ask, held_port

from .conftest import Open, running
from .test_chat import until


def chat(site: Gateway, text: str = "Hello!", tokens: int = 24) -> None:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens}
    assert ask(f"{site.url}/v1/chat/completions", body, seconds=60)[0] == 200


def test_status_page_shows_backends_and_slots_live(site: Gateway, visit: Open) -> None:
    page = visit(f"{site.url}/status")
    page.locator(".backend .state", has_text="up").wait_for()
    page.locator(".slots .slot").nth(3).wait_for()
    before = page.locator('[data-key="errors"] .note').inner_text()
    for number in range(3):
        chat(site, f"Hello number {number}!")
    page.locator('.slot[data-kind="held"]').first.wait_for()
    note = page.locator('[data-key="errors"] .note')
    until(page, lambda: note.inner_text() != before)
    first_token = page.locator('[data-part="numbers"] [data-key="first_token"] .number')
    until(page, lambda: first_token.inner_text() != "–")
    plots = page.locator(".plot canvas")
    until(page, lambda: plots.count() == 7)
    # A line is drawn: something in the plot has the accent's colour.
    blue = """(canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height)
                .data.some((value, n) => n % 4 === 2 && value > 150)"""
    until(page, lambda: plots.first.evaluate(blue))


def test_slot_is_not_called_empty_before_its_contents_are_known(site: Gateway, visit: Open) -> None:
    held: list[Any] = []
    page = visit(f"{site.url}/status")
    page.route("**/api/status/slots*", lambda route: held.append(route))
    page.goto(f"{site.url}/status")
    page.locator(".slots .slot").first.wait_for()
    nothing = page.locator('[data-part="held-none"]')
    assert nothing.is_hidden()
    page.locator('[data-part="held-title"]').scroll_into_view_if_needed()
    until(page, lambda: bool(held))
    assert nothing.is_hidden()
    empty = {"begin": 0, "end": 3600, "tenures": []}
    for route in held:
        route.fulfill(json=empty)
    nothing.wait_for()


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
          // A step is ten seconds.
          hour.add({
            step: 10, span: 200, at: [1030, 1040, 1100], requests: [2, 3, 1],
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


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, str]]:
    """A gateway with a ledger in front of a stub of 1 024 slots, and the stub's address."""
    folder = tmp_path_factory.mktemp("thousand")
    stub = Stub(folder)
    flags = ["--llama-api", stub.upstream, "--data", str(folder / "data")]
    gateway = Gateway(flags, folder / "gateway.log")
    try:
        with running(gateway):
            yield gateway, stub.upstream
    finally:
        stub.process.kill()


def test_numbers_are_those_of_the_answers_in_the_hour_and_from_the_ledger(
    thousand: tuple[Gateway, str], visit: Open
) -> None:
    site, stub = thousand
    streams: list[Iterator[str]] = []
    for pace in range(2, 12):  # tokens a second
        ask(f"{stub}/pace/{pace}")
        body = {"messages": [{"role": "user", "content": f"At {pace}"}], "max_tokens": 24}
        url = f"{site.url}/v1/chat/completions"
        answer = requests.post(url, json={**body, "stream": True}, stream=True, timeout=60)
        streams.append(answer.iter_lines(1, decode_unicode=True))
        assert "data: " in next(streams[-1])  # the stub has the request, and its pace
    paces: list[float] = []
    for lines in streams:  # seconds long, so that a busy machine's delays are small beside them
        # A token of the stub is the time at which it was sent, in microseconds.
        sent = [int(time) for time in re.findall(r"t(\d{15})", "".join(lines))]
        assert len(sent) >= 23
        paces.append(1e6 * (len(sent) - 1) / (sent[-1] - sent[0]))
    ask(f"{stub}/pace/0")
    page = visit(f"{site.url}/status")
    speed = page.locator('[data-key="speed"]')
    page.locator('[data-key="errors"] .note', has_text="of 10 requests").wait_for()
    paces.sort()
    assert float(speed.locator(".number").inner_text()) == pytest.approx(paces[4], rel=0.15)
    (slowest,) = re.findall(r"90 % reach ([\d.]+)", speed.locator(".note").inner_text())
    assert float(slowest) == pytest.approx(paces[0], rel=0.15)
    said = page.locator('[data-part="histograms"] .plot-area').nth(2).get_attribute("aria-label")
    assert said.startswith("Tokens per second: 10 values, median ")
    live = speed.inner_text()
    page.locator('[name="hours"]').select_option("720")
    page.locator(".plot-area[aria-label^='Requests, by time; last 10']").wait_for()
    assert speed.inner_text() == live
    page.locator('[name="hours"]').select_option("1")
    page.locator(".plot-area[aria-label^='Requests per minute']").wait_for()


def test_thousand_slots_are_drawn_soon_and_reached_by_keyboard(
    thousand: tuple[Gateway, str], visit: Open, accessible: Any
) -> None:
    site, _ = thousand
    for number in range(3):
        chat(site, f"Hold slot {number}!")
    page = visit("about:blank")
    page.add_init_script(
        """addEventListener("DOMContentLoaded", () => {
             const look = () => document.querySelectorAll(".dense .slot").length === 1024
               ? (window.drawnAt = performance.now()) : requestAnimationFrame(look);
             look();
           });"""
    )
    page.goto(f"{site.url}/status")
    page.wait_for_function("() => window.drawnAt")
    assert page.evaluate("window.drawnAt") < 10_000  # milliseconds since the visit began
    assert page.locator(".backend h4 .note").inner_text().endswith(" free")
    slots = page.get_by_role("listbox", name="Slots")
    slots.focus()
    for key in ("Home", "ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"):
        slots.press(key)
    page.locator("#held-title", has_text="Slot 1 of").wait_for()
    assert slots.get_attribute("aria-activedescendant") == "chosen-slot"
    assert slots.locator('[aria-selected="true"]').get_attribute("aria-label").startswith("Slot 1,")
    page.locator('[data-part="held-rows"] tr', has_text="conversation").first.wait_for()
    slots.press("End")
    page.locator("#held-title", has_text="Slot 1023 of").wait_for()
    until(page, lambda: page.locator('[data-part="lanes"] .lane').count() == 32)
    page.get_by_text("Nothing was in this slot").wait_for()
    accessible(page)


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
