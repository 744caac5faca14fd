"""Downloads on the models page, from a scripted hub on loopback."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.extras import need
from tests.fakes import wait_until
from tests.scripted_hub import Hub, serving
from tools.processes import Gateway

from .conftest import Open

need("pull", "huggingface_hub")

DATA = b"GGUF" + os.urandom(1 << 20) * 3
NAME = "Small-Q4_K_M"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving({f"{NAME}.gguf": DATA, "Small-Q8_0.gguf": DATA * 2}) as served:
        yield served


@pytest.fixture
def gateway(hub: Hub, tmp_path: Path) -> Iterator[Gateway]:
    folder = tmp_path / "models"
    folder.mkdir()
    flags = ("--models-dir", str(folder), "--llama-server", "sh", "--memory", "5MiB")
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hub")}
    gateway = Gateway([*flags, "--data", str(tmp_path / "data")], tmp_path / "gateway.log", env=env)
    try:
        gateway.start(ready=0)
        yield gateway
    finally:
        gateway.kill()


def test_a_model_is_found_downloaded_and_deleted(
    visit: Open, gateway: Gateway, hub: Hub, tmp_path: Path, accessible: Callable[[Any], None]
) -> None:
    hub.pause_after = 1 << 20
    page = visit(f"{gateway.url}/models")
    page.fill('input[name="model"]', "maker/Small-GGUF")
    page.click('[data-part="pull-form"] button')
    offers = page.locator('[data-part="offers"] article')
    offers.nth(1).wait_for()
    accessible(page)
    assert "does not fit" in offers.nth(1).inner_text()
    offers.nth(0).get_by_role("button").click()
    bar = page.locator('[data-part="pull-bar"]')
    bar.wait_for()
    wait_until(lambda: bar.evaluate("bar => bar.value") > 0)
    page.click('[data-part="pull-cancel"]')
    page.wait_for_selector("text=cancelled")
    hub.go.set()
    offers.nth(0).get_by_role("button").click()
    card = page.locator('[data-part="models"] article', has_text=NAME)
    card.wait_for()  # seen without a restart
    file = tmp_path / "models" / NAME / f"{NAME}.gguf"
    assert file.read_bytes() == DATA
    page.on("dialog", lambda dialog: dialog.accept())
    card.get_by_role("button", name=f"Delete {NAME}").click()
    wait_until(lambda: not file.exists())
