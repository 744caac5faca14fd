"""All models that this gateway starts itself."""

from __future__ import annotations

import contextlib
import threading
import time

from ..config import ModelConfig
from ..errors import GatewayError
from .model import Connect, HostedModel
from .room import Room

LOADING = 3600.0  # seconds in which a load by hand must find room and succeed
GRACE = 5.0  # seconds beyond the longest stop_timeout for all servers to end


class ModelHost:
    """Arguments as of `HostedModel`."""

    def __init__(self, connect: Connect, *, room: Room, deadline: float, max_waiting: int) -> None:
        self.room = room
        self._connect = connect
        self._deadline = deadline
        self._max_waiting = max_waiting
        self._models: list[HostedModel] = []

    def add(self, config: ModelConfig) -> HostedModel:
        """Add a model. One of the same name, whose settings have changed, keeps running until it
        is closed."""
        model = HostedModel(
            config,
            self._connect,
            room=self.room,
            deadline=self._deadline,
            max_waiting=self._max_waiting,
        )
        self._models = [*(one for one in self._models if not one.gone), model]
        return model

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
        if model.server is None:
            threading.Thread(target=_load, args=(model,), daemon=True).start()

    def close(self) -> None:
        """End all servers; all of them at once, and by force after their `stop_timeout`."""
        models = self._models
        for model in models:
            model.close()
        patience = max((model.config.stop_timeout for model in models), default=0.0)
        end = time.monotonic() + patience + GRACE
        for model in models:
            model.join(max(0.0, end - time.monotonic()))


def _load(model: HostedModel) -> None:
    with contextlib.suppress(GatewayError):  # the model logs why
        model.load(LOADING)
