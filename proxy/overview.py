"""What is up: the table that ``slotproxy --all`` prints once everything was looked at.

Nothing in it is a promise: a backend is up when it has answered, a part that cannot run here says
why.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from .backends.registry import Registry
from .config import Settings
from .keeping import data_folder
from .web.services import Services

LOOK = 0.2  # seconds between two looks at backends that have not answered yet
APIS = "OpenAI, Anthropic, Ollama, GLM, llama.cpp"


class Part(NamedTuple):
    """`state` is up, down, or off; `where` an address, or what is the matter."""

    name: str
    state: str
    where: str


def parts(services: Services, addresses: Sequence[str]) -> list[Part]:
    """All there is, as it is at this moment."""
    settings = services.settings
    where = [f"{address}{settings.api_prefix}" for address in addresses]
    count = len(settings.keys)
    keys = "no key needed" if not count else "1 key" if count == 1 else f"{count} keys"
    apis = APIS + (", Langchain-Chatchat" if settings.chatchat else "")
    return [
        Part("gateway", "up", f"{' '.join(where)} ({keys})"),
        Part("APIs", "up", apis),
        Part("pages", "up", f"{where[0]}/") if settings.pages else Part("pages", "off", "--pages"),
        *_backends(services),
        _knowledge(services),
        _choice("web search", settings.search_engine, "--search-engine"),
        _choice("agent tools", settings.tools, "--tools"),
    ]


def _registries(services: Services) -> list[tuple[str, Registry]]:
    """Those of the models, and of servers for embeddings or rankings alone."""
    own = services.gateway.registry
    found = [("backend", own)]
    for kind, embedder in (("embeddings", services.embedder), ("rankings", services.ranker)):
        if embedder.registry is not own:
            found.append((kind, embedder.registry))
    return found


def _backends(services: Services) -> Iterable[Part]:
    for kind, registry in _registries(services):
        for backend in registry.backends.values():
            name = f"{kind} {backend.name}"
            if not backend.up:
                yield Part(name, "down", backend.error or "has not answered yet")
            elif kind == "backend":
                slots = services.gateway.scheduler.slots(backend.name)
                many = "slot" if slots == 1 else "slots"
                yield Part(name, "up", f"{backend.model}, {slots} {many}")
            else:
                yield Part(name, "up", backend.model)


def _knowledge(services: Services) -> Part:
    """Knowledge bases and the jobs that read documents; this opens them."""
    name, settings = "knowledge, jobs", services.settings
    if services.knowledge is None:
        return Part(name, "off", "pip install slotproxy[knowledge]")
    try:
        services.knowledge.bases("")
    except Exception as error:
        # Whatever keeps a database from opening is its operator's to know, and no reason to stop.
        return Part(name, "down", f"{type(error).__name__}: {error}".splitlines()[0][:200])
    if settings.database:
        return Part(name, "up", settings.database.partition(":")[0])
    return Part(name, "up", f"SQLite in {settings.data or data_folder()}")


def _choice(name: str, chosen: Sequence[str], flag: str) -> Part:
    return Part(name, "up", ", ".join(chosen)) if chosen else Part(name, "off", f"{flag} names one")


def table(rows: Sequence[Part]) -> str:
    """The rows under each other, a line each, in columns."""
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(
        f"  {row.name:<{widths[0]}}  {row.state:<{widths[1]}}  {row.where}" for row in rows
    )


def tell(
    services: Services, settings: Settings, addresses: Sequence[str], say: Callable[[str], None]
) -> None:
    """Say the table as soon as every backend was looked at, from a thread of its own."""

    def wait() -> None:
        end = time.monotonic() + settings.health_deadline
        registries = [registry for _, registry in _registries(services)]
        while not all(one.settled for one in registries) and time.monotonic() < end:
            time.sleep(LOOK)
        say("everything that was asked for:\n" + table(parts(services, addresses)))

    threading.Thread(target=wait, name="overview", daemon=True).start()
