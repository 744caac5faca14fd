"""All models that this gateway starts itself."""

from __future__ import annotations

import time

from ..config import ModelConfig
from .model import Connect, HostedModel
from .room import Room

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
        for model in reversed(self._models):
            if not model.closed and name in (model.config.name, *model.config.aliases):
                return model
        return None

    def close(self) -> None:
        """End all servers; all of them at once, and by force after their `stop_timeout`."""
        models = self._models
        for model in models:
            model.close()
        patience = max((model.config.stop_timeout for model in models), default=0.0)
        end = time.monotonic() + patience + GRACE
        for model in models:
            model.join(max(0.0, end - time.monotonic()))
