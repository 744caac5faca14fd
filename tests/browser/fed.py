"""A site whose model says what the test feeds it, when the test feeds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.openai_server import Feed, OpenAIServerFake
from tools.processes import Gateway

from .conftest import running

# No health check asks the model in between.
FLAGS = ("--health-interval", "3600", "--no-local-embeddings")


class FedSite:
    """A gateway in front of a model with `slots` that answers from feeds."""

    def __init__(self, gateway: Gateway, model: OpenAIServerFake) -> None:
        self.url = gateway.url
        self._model = model
        self._feeds: list[Feed] = []

    def feed(self) -> Feed:
        """The next answer of the model."""
        feed = Feed()
        self._feeds.append(feed)
        self._model.replies.insert(-1, feed)
        return feed

    def end(self) -> None:
        """End the answers that a failed test left."""
        for feed in self._feeds:
            feed.end()


@contextmanager
def fed_site(folder: Path, slots: int = 4, *flags: str) -> Iterator[FedSite]:
    with OpenAIServerFake("Yes.") as model:
        config = folder / "slotproxy.toml"
        config.write_text(f'[[backend]]\nkind = "openai"\nurl = "{model.url}"\nslots = {slots}\n')
        words = ["--config", str(config), "--data", str(folder / "data"), *FLAGS, *flags]
        gateway = Gateway(words, folder / "gateway.log")
        with running(gateway):
            site = FedSite(gateway, model)
            try:
                yield site
            finally:
                site.end()
