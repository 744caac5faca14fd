"""Keys of servers that are started here."""

from __future__ import annotations

import pytest

from proxy.config import ModelConfig
from proxy.config.models import words
from proxy.hosting import model_files
from proxy.hosting.host import key_of, with_key

COMMAND = "llama-server -m m.gguf --port ${PORT}"


def model(command: str = COMMAND, **fields: object) -> ModelConfig:
    return ModelConfig(name="m", command=words(command), **fields)  # type: ignore[arg-type]


def test_each_server_gets_a_key_of_its_own() -> None:
    first, other = with_key(model()), with_key(model())
    assert len(key_of(first)) >= 32
    assert key_of(first) != key_of(other)
    assert first.environment == {"LLAMA_API_KEY": key_of(first)}
    assert model_files.fingerprint(first) == model_files.fingerprint(
        other
    )  # its measured values stay


@pytest.mark.parametrize(
    ("configured", "key"),
    [
        (model(f"{COMMAND} --api-key secret,more"), "secret"),
        (model(environment={"LLAMA_API_KEY": "secret"}), "secret"),
        (model("vllm serve x --port ${PORT} --api-key secret", kind="openai"), "secret"),
        (model("vllm serve x --port ${PORT}", kind="openai"), ""),
        (model("whisper-server --port ${PORT}", kind="http"), ""),
        (model(url="http://127.0.0.1:9000"), ""),
    ],
)
def test_key_of_the_operator_stays(configured: ModelConfig, key: str) -> None:
    assert with_key(configured) == configured
    assert key_of(configured) == key
