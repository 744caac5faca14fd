"""The button that ends a model's reasoning, on a model that thinks for minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.slow_model import SlowModel
from tools.processes import Gateway, held_port

from .conftest import DESKTOP, OPENED, PHONE, Open, running
from .test_chat import ask, until

# The prompt ends within reasoning.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
# Size, language, dark, and the words of the button.
LOOKS = [(DESKTOP, "en", False, "Answer now"), (PHONE, "zh", True, "立即回答")]


@pytest.mark.parametrize(("size", "language", "dark", "words"), LOOKS)
def test_a_button_ends_the_reasoning(
    endless_server: SlowModel,
    tmp_path: Path,
    visit: Open,
    accessible: Any,
    size: tuple[int, int],
    language: str,
    dark: bool,
    words: str,
) -> None:
    template = tmp_path / "thinking.jinja"
    template.write_text(THINKING)
    flags = ["--llama-api", endless_server.url, "--slots", "2", "--data", str(tmp_path / "data")]
    flags += ["--chat-template", str(template), "--sampling", "temperature=1"]
    gateway = Gateway(flags, tmp_path / "gateway.log", port=held_port())
    with running(gateway):
        page = visit(f"{gateway.url}/", size=size, language=language, dark=dark)
        page.locator(OPENED).wait_for()
        ask(page, "Hello!")
        button = page.get_by_role("button", name=words)
        button.wait_for()
        accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        button.click()
        page.locator(".wait").wait_for(state="detached")  # its words have begun
        page.locator('[data-part="stop"]').click()
        page.locator('.message.assistant[data-status="stopped"]').wait_for()
        said = page.locator(".message.assistant .said")
        until(page, lambda: said.inner_text().strip() != "")
        assert page.locator('[data-name="reasoning"]').count() == 1
