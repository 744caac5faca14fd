"""What a reload of the settings does to a running app."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.app import reload
from proxy.config import BackendConfig, Settings, SettingsError
from tests.fakes import ScriptedDriver, make_app, services_of, wait_until

NOBODY = "http://127.0.0.1:9"


def test_reload_takes_the_backends_of_the_new_settings() -> None:
    app = make_app(ScriptedDriver())
    config = BackendConfig(name="new", url=NOBODY, ctx_size=512)
    reload(app, Settings(llama_api=(), backend=(config,), chat_mode="completion"))
    registry = services_of(app).gateway.registry
    wait_until(lambda: list(registry.backends) == ["new"])
    backend = registry.backends["new"]
    assert (backend.url, backend.n_ctx, backend.chat_mode) == (NOBODY, 512, "completion")


def test_reload_of_equal_settings_keeps_the_backends() -> None:
    app = make_app(ScriptedDriver())
    settings = Settings(llama_api=(), backend=(BackendConfig(name="new", url=NOBODY),))
    reload(app, settings)
    backend = services_of(app).gateway.registry.backends["new"]
    reload(app, settings)
    assert services_of(app).gateway.registry.backends["new"] is backend
    assert not backend.leaving


def test_settings_that_cannot_be_used_change_nothing(tmp_path: Path) -> None:
    app = make_app(ScriptedDriver())
    model = tmp_path / "model.bin"
    model.write_bytes(b"no model")
    usable = BackendConfig(name="new", url=NOBODY)
    broken = BackendConfig(name="broken", kind="chatglm", file=str(model))
    with pytest.raises(SettingsError, match="--chatglm-model"):
        reload(app, Settings(llama_api=(), backend=(usable, broken)))
    assert list(services_of(app).gateway.registry.backends) == ["b0"]
    assert app.test_client().post("/v1/completions", json={"prompt": "hi"}).status_code == 200


def test_backend_of_a_table_has_its_aliases() -> None:
    app = make_app(ScriptedDriver())
    config = BackendConfig(url=NOBODY, model="m", aliases=("other",), kind="openai")
    reload(app, Settings(llama_api=(), backend=(config, BackendConfig(url=f"{NOBODY}9"))))
    registry = services_of(app).gateway.registry
    wait_until(lambda: "m" in registry.models())
    assert registry.resolve("other") == ("m", "other")
