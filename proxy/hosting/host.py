"""All models that this gateway starts itself."""

from __future__ import annotations

import contextlib
import secrets
import time

from msgspec.structs import replace

from ..config import PORT, ModelConfig
from ..errors import GatewayError
from .model import HostedModel
from .model_files import KEY_VARIABLE, flag
from .slot_keeper import SAVING
from .starting import Hosting


def with_key(config: ModelConfig) -> ModelConfig:
    """The model with a key for its server, if it is a llama.cpp server on a port of the gateway's
    choice: without a key, any web site in a browser on this machine could use it. It is in the
    environment, which other users cannot read; older servers ignore it."""
    if config.kind != "llamacpp" or PORT not in config.url or key_of(config):
        return config
    environment = {**config.environment, KEY_VARIABLE: secrets.token_urlsafe(24)}
    return replace(config, environment=environment)


def key_of(config: ModelConfig) -> str:
    """The key that the server of a model expects, "" for none."""
    keys = flag(config.command, "--api-key") or config.environment.get(KEY_VARIABLE, "")
    return keys.partition(",")[0]


GRACE = 5.0  # seconds beyond the longest stop_timeout for all servers to end


class ModelHost:
    """`preload` begins once `start` is called."""

    def __init__(self, hosting: Hosting) -> None:
        self.hosting, self.room = hosting, hosting.room
        self._models: list[HostedModel] = []
        self._started = False
        self.presets = False  # whether requests of any model may need to be changed

    def add(self, config: ModelConfig) -> HostedModel:
        """Add a model. A former one of the same name runs until it is closed."""
        config = with_key(config)
        if not self._models:
            self.room.limits = replace(self.room.limits, cards=self.hosting.cards.totals)
        for old in self._models:
            if old.name == config.name and old.slots is not None:
                old.slots.retire()
        model = HostedModel(config, self.hosting)
        self._models = [*(other for other in self._models if not other.gone), model]
        self.presets = any(m.config.has_preset for m in self._models)
        if self._started and config.preload:
            self.load(model)
        return model

    def start(self) -> None:
        """Begin to load the models with `preload`, also those that are added later."""
        self._started = True
        for model in self.models:
            if model.config.preload:
                self.load(model)

    def find(self, name: str) -> HostedModel | None:
        for model in reversed(self.models):
            if name in (model.config.name, *model.config.aliases):
                return model
        return None

    @property
    def models(self) -> list[HostedModel]:
        return [model for model in self._models if not model.closed]

    def load(self, model: HostedModel) -> None:
        """Begin to load a model. If that fails, `error` of the model and the log say why."""
        with contextlib.suppress(GatewayError):  # it failed before, and is not tried again yet
            model.load()

    def leave(self) -> None:
        """End the servers that no request needs now, and the others after their last one."""
        for model in self._models:
            model.retire()

    def close(self) -> None:
        """End all servers; all of them at once, and by force after their `stop_timeout`."""
        models = self._models
        for model in models:
            model.close()
        patience = max((model.config.stop_timeout for model in models), default=0.0)
        end = time.monotonic() + SAVING + patience + GRACE
        for model in models:
            model.join(max(0.0, end - time.monotonic()))
