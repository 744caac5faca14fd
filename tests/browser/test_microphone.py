"""Speech into the microphone becomes text in the question, in a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fakes import wait_until
from tests.whisper_server import WhisperFake
from tools.processes import Gateway

from .conftest import OPENED, Open, Site

pytestmark = pytest.mark.alone

# A tone takes the place of the microphone.
TONE = """() => { navigator.mediaDevices.getUserMedia = async () => {
  const context = new AudioContext();
  const tone = context.createOscillator();
  const out = context.createMediaStreamDestination();
  tone.connect(out);
  tone.start();
  await context.resume();
  window.heard = () => context.currentTime;
  return out.stream;
}; }"""
REFUSED = "() => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new Error()); }"


@pytest.fixture(scope="module")
def whisper() -> Iterator[WhisperFake]:
    with WhisperFake() as server:
        yield server


@pytest.fixture(scope="module")
def hearing(whisper: WhisperFake, start_module_site: Site) -> Gateway:
    return start_module_site("--llama-api", whisper.url)


def test_speech_becomes_text_in_the_question(
    hearing: Gateway, whisper: WhisperFake, visit: Open, accessible: Callable[[Any], None]
) -> None:
    page = visit(hearing.url)
    page.locator(OPENED).wait_for()
    page.evaluate(TONE)
    page.fill("#text", "Sing:")
    page.get_by_role("button", name="Speak", exact=True).click()
    stop = page.get_by_role("button", name="Stop speaking")
    stop.wait_for()
    accessible(page)
    began = page.evaluate("heard()")
    wait_until(lambda: page.evaluate("heard()") > began + 1)  # seconds that are recorded
    stop.click()
    wait_until(lambda: page.input_value("#text") == "Sing: Seven green bottles, déjà vu.")
    page.get_by_role("button", name="Speak", exact=True).wait_for()
    sound = whisper.files[-1]
    assert (sound[:4], sound[8:16], len(sound) > 2000) == (b"RIFF", b"WAVEfmt ", True)


def test_a_browser_without_microphone_says_so_in_chinese(hearing: Gateway, visit: Open) -> None:
    page = visit(hearing.url, language="zh")
    page.locator(OPENED).wait_for()
    page.evaluate(REFUSED)
    page.get_by_role("button", name="语音输入", exact=True).click()
    page.get_by_text("浏览器未允许使用麦克风。").wait_for()


def test_there_is_no_microphone_without_a_model_that_hears(site: Gateway, visit: Open) -> None:
    page = visit(site.url)
    page.locator(OPENED).wait_for()
    assert page.locator('[data-part="microphone"]').count() == 0
