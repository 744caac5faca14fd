"""A server that speaks OpenAI's API and lists several models, such as Ollama or LM Studio.

Each model is a backend of its own, with an `OpenAIModel` as its driver. One request for the list
serves them all: it shows which models there are and that the server responds.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from ...errors import BackendDown
from ...wire.router import Listed
from ..driver import Capabilities, Learned, ignore
from .driver import OpenAIServer
from .server_types import OLLAMA, UNKNOWN, ListedModel, ServerType


class OpenAIHost:
    """The models at the address of `driver`."""

    def __init__(self, driver: OpenAIServer) -> None:
        self._driver = driver
        self._looking = threading.Lock()
        self._members: dict[str, OpenAIModel] = {}
        self.up = True
        self.models: Mapping[str, Listed] = {}
        self.lost: frozenset[str] = frozenset()  # it keeps its caches itself
        self.entries: Mapping[str, ListedModel] = {}
        self.server: ServerType = UNKNOWN

    def look(self) -> Mapping[str, Listed]:
        with self._looking:
            try:
                listed, is_ollama = self._driver.model_list()
            except BackendDown:
                self.up = False
                raise
            self.up, self.server = True, OLLAMA if is_ollama else UNKNOWN
            self.entries = {model.name: model for model in listed}
            self.models = {name: Listed(name=name, status="loaded") for name in self.entries}
            return self.models

    def model(self, name: str) -> OpenAIModel:
        if name not in self._members:
            self._members[name] = OpenAIModel(self, name, self._driver)
        return self._members[name]

    def forget(self, name: str) -> None:
        self._members.pop(name, None)

    def close(self) -> None:
        """Nothing is open but the connections of the drivers."""


class OpenAIModel(OpenAIServer):
    """One of the models of `host`, at the address of `server`."""

    def __init__(self, host: OpenAIHost, name: str, server: OpenAIServer) -> None:
        super().__init__(server.url, model=name, **server.options)
        self._host = host

    def probe(self, deadline: float, learned: Learned = ignore) -> Capabilities:
        if not self._host.up:
            raise BackendDown("the backend is not responding")
        entry = self._host.entries.get(self._wanted)
        if entry is None:
            raise BackendDown(f"the backend does not list the model {self._wanted}")
        return self._found(entry, self._host.server)

    def alive(self) -> bool:
        return self._host.up and self._wanted in self._host.entries
