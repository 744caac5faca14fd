"""The model with which the gateway itself makes embeddings is no model for chats."""

from __future__ import annotations

import msgspec
import pytest

from proxy.app import compose
from proxy.backends.local_embeddings import NAME
from tests.fakes import CAPS, ScriptedDriver, make_app, services_of, wait_until

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize("models", [("qwen3",), ("qwen3", "tiny")])
def test_embedding_model_is_refused_for_chats(
    models: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = ScriptedDriver(caps=msgspec.structs.replace(CAPS, models=(NAME,)))
    local = services_of(make_app(vectors)).embedder
    wait_until(lambda: local.makes(NAME))
    monkeypatch.setattr(compose, "_local_embedder", lambda settings, life: local)
    drivers = [ScriptedDriver(caps=msgspec.structs.replace(CAPS, models=(m,))) for m in models]
    to = make_app(*drivers).test_client()
    wait_until(lambda: to.get("/readyz").status_code == 200)
    for path, model in [("/v1/chat/completions", NAME), ("/api/chat", f"{NAME}:latest")]:
        refused = to.post(path, json={**CHAT, "model": model})
        assert refused.status_code == 400, refused.text
        assert f"the model {NAME} makes embeddings only" in refused.text
    assert NAME not in to.get("/api/tags").text
    assert to.post("/api/show", json={"model": NAME}).json["capabilities"] == ["embedding"]
    assert NAME in to.get("/v1/models").text  # for clients that make embeddings
