"""API keys of the servers that are started here.

A llama-server without a key answers pages of any origin, so any web site in a browser on this
machine could use it, past the keys and checks of the gateway. So each gets a key of its own. It is
in the environment, which other users cannot read; older servers ignore it.
"""

from __future__ import annotations

import secrets

from msgspec.structs import replace

from ..config import PORT, ModelConfig
from .estimate import KEY_VARIABLE, flag


def with_key(config: ModelConfig) -> ModelConfig:
    """The model with a key for its server, if it is a llama.cpp server on a port of the gateway's
    choice. On a port of its own, others may use it too."""
    if config.kind != "llamacpp" or PORT not in config.url or key_of(config):
        return config
    environment = {**config.environment, KEY_VARIABLE: secrets.token_urlsafe(24)}
    return replace(config, environment=environment)


def key_of(config: ModelConfig) -> str:
    """The key that the server of a model expects, "" for none."""
    keys = flag(config.command, "--api-key") or config.environment.get(KEY_VARIABLE, "")
    return keys.partition(",")[0]
