"""All models that this gateway starts itself."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from ..backends.http import CheckPeer
from ..config import PORT, ModelConfig
from ..errors import GatewayError
from .memory_budget import MemoryBudget
from .model import HostedModel
from .model_files import KEY_VARIABLE, flag
from .need import Cards, KeptNeeds
from .slot_keeper import SAVING, SlotKeeper
from .starting import Server


# API keys of the servers that are started here.
#
# A llama-server without a key answers pages of any origin, so any web site in a browser on this
# machine could use it, past the keys and checks of the gateway. So each gets a key of its own. It
# is in the environment, which other users cannot read; older servers ignore it.
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


GRACE = 5.0  # seconds beyond the longest stop_timeout for all servers to end


class ModelHost:
    """`connect` makes a driver for the server of a model; the other arguments are those of
    `HostedModel`. `keeper` saves slots, None: nothing does. `preload` begins once `start` is
    called."""

    def __init__(
        self,
        connect: Callable[[ModelConfig, str, CheckPeer], Server],
        *,
        room: MemoryBudget,
        deadline: float,
        max_waiting: int,
        needs: KeptNeeds | None = None,
        cards: Cards | None = None,
        keeper: SlotKeeper | None = None,
    ) -> None:
        self.room = room
        self._keeper = keeper
        self._connect = connect
        self._deadline = deadline
        self._max_waiting = max_waiting
        self._needs = needs
        self._cards = cards or Cards()
        self._models: list[HostedModel] = []
        self._started = False
        self.presets = False  # whether requests of any model may need to be changed

    def add(self, config: ModelConfig) -> HostedModel:
        """Add a model. One of the same name, whose settings have changed, keeps running until it
        is closed."""
        config = with_key(config)
        if not self._models:
            self.room.limits = replace(self.room.limits, cards=self._cards.totals)
        for old in self._models:
            if old.name == config.name and old.slots is not None:
                old.slots.retire()
        model = HostedModel(
            config,
            partial(self._connect, config),
            room=self.room,
            deadline=self._deadline,
            max_waiting=self._max_waiting,
            needs=self._needs,
            cards=self._cards,
            slots=self._keeper.of(config) if self._keeper is not None else None,
        )
        self._models = [*(one for one in self._models if not one.gone), model]
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
        """The model of this name or alias."""
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
