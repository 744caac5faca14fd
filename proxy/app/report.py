"""The status table that ``slotproxy --all`` prints once every part was checked.

A backend is up once it has answered; a part that cannot run here shows the reason.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ..backends.registry import Registry
from ..config.fixed import HEALTH_DEADLINE
from ..web.services import Services
from .data_folder import data_folder

LOOK = 0.2  # seconds between two checks of backends that have not answered yet
APIS = "OpenAI, Anthropic, Ollama, GLM, llama.cpp"


class Part(NamedTuple):
    """`state` is up, down, or off; `where` an address, or the reason."""

    name: str
    state: str
    where: str


def parts(services: Services, addresses: Sequence[str]) -> list[Part]:
    """All parts with their current state."""
    settings = services.settings
    where = [f"{address}{settings.api_prefix}" for address in addresses]
    count = len(settings.keys)
    keys = "no API key required" if not count else "1 key" if count == 1 else f"{count} keys"
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
    """The registries of models, and of servers for embeddings or rankings."""
    own = services.gateway.registry
    registries = [("backend", own)]
    of_vectors = (
        ("embeddings", services.embedder),
        ("embeddings", services.local_embedder),
        ("rankings", services.ranker),
    )
    for kind, embedder in of_vectors:
        if embedder is not None and embedder.registry is not own:
            registries.append((kind, embedder.registry))
    return registries


def _backends(services: Services) -> Iterable[Part]:
    for kind, registry in _registries(services):
        for backend in registry.backends.values():
            name = f"{kind} {backend.name}"
            if not backend.up:
                yield Part(name, "down", backend.error or "no response yet")
            elif kind == "backend":
                slots = services.gateway.scheduler.slots(backend.name)
                many = "slot" if slots == 1 else "slots"
                yield Part(name, "up", f"{backend.model}, {slots} {many}")
            else:
                yield Part(name, "up", backend.model)


def _knowledge(services: Services) -> Part:
    """The state of knowledge bases and ingestion jobs; this opens them."""
    name, settings = "knowledge, jobs", services.settings
    if services.knowledge is None:
        return Part(name, "off", "pip install slotproxy[knowledge]")
    try:
        services.knowledge.bases("")
    except Exception as error:
        # The operator must see what keeps the database from opening, but the server runs on.
        return Part(name, "down", f"{type(error).__name__}: {error}".splitlines()[0][:200])
    if settings.database:
        return Part(name, "up", settings.database.partition(":")[0])
    return Part(name, "up", f"SQLite in {settings.data or data_folder()}")


def _choice(name: str, chosen: Sequence[str], flag: str) -> Part:
    return Part(name, "up", ", ".join(chosen)) if chosen else Part(name, "off", f"set {flag}")


def table(rows: Sequence[Part]) -> str:
    """Format the rows in columns, one line each."""
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(
        f"  {row.name:<{widths[0]}}  {row.state:<{widths[1]}}  {row.where}" for row in rows
    )


def tell(services: Services, addresses: Sequence[str], say: Callable[[str], None]) -> None:
    """Print the table once every backend was checked, from a thread of its own."""

    def wait() -> None:
        end = time.monotonic() + HEALTH_DEADLINE
        registries = [registry for _, registry in _registries(services)]
        while not all(registry.settled for registry in registries) and time.monotonic() < end:
            time.sleep(LOOK)
        say("configured services:\n" + table(parts(services, addresses)))

    threading.Thread(target=wait, name="overview", daemon=True).start()
