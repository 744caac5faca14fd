"""Hosted models that end with their test."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy.hosting.model import HostedModel

from . import fakes


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def make() -> Iterator[fakes.Make]:
    """Factory for models, which end with the test."""
    made: list[HostedModel] = []

    def hosted(*args: object, **fields: object) -> HostedModel:
        made.append(fakes.hosted(*args, **fields))  # type: ignore[arg-type]
        return made[-1]

    yield hosted
    for model in made:
        model.close()
    for model in made:
        model.join(60)
        assert model.gone
