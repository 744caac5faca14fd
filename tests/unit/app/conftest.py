"""Servers that discovery looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest

from proxy.app import discovery
from tests.http_fakes import FakeHandler, FakeServer

Serving = Callable[[Mapping[str, Any]], int]


class _Documents(FakeHandler):
    answers: Mapping[str, Any]

    def do_GET(self) -> None:
        self.body()
        self.send(self.answers.get(self.path), 200 if self.path in self.answers else 404)

    do_POST = do_GET


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    """Factory: the port of a server with these documents by path, which refuses all else."""
    monkeypatch.setattr(discovery, "PATIENCE", 60.0)
    with ExitStack() as stack:

        def start(answers: Mapping[str, Any]) -> int:
            server = stack.enter_context(FakeServer(_Documents, answers=answers))
            return int(server.url.rpartition(":")[2])

        yield start
