"""What every view needs, made once by the composition root and kept with the app."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flask import Flask, current_app

from ..config import Settings
from ..dialogue import Dialogues
from ..gateway import Embedder, Gateway
from ..store.live import LiveSessions, MemorySessions
from ..store.responses import ResponseStore
from .auth import Keys
from .background import Jobs
from .calling import Callers
from .observe import Observer
from .ongoing import Ongoing
from .seen import Seen
from .shares import Shares

if TYPE_CHECKING:
    from ..knowledge.service import Knowledge
    from ..knowledge.stores import VectorStores
    from ..prompting.layouts import Layouts
    from ..store.conversations import ConversationStore

EXTENSION = "slotproxy"


@dataclass(frozen=True)
class Services:
    settings: Settings
    gateway: Gateway
    keys: Keys
    callers: Callers
    observer: Observer
    started: int
    embedder: Embedder
    ranker: Embedder
    store: ResponseStore
    jobs: Jobs
    ongoing: Ongoing
    watchers: Shares  # of the status page
    writers: Shares  # of answers for the chat page
    layouts: Layouts
    dialogues: Dialogues
    knowledge: Knowledge | None = None  # where it is not asked for, or cannot be had
    conversations: ConversationStore | None = None
    vector_stores: VectorStores | None = None  # as knowledge
    seen: Seen = field(default_factory=Seen)
    # Of the pages; None where workers share what is not kept in a database.
    sessions: LiveSessions | None = field(default_factory=MemorySessions)


def services() -> Services:
    """Those of the app that serves this request."""
    return services_of(current_app)


def services_of(app: Flask) -> Services:
    """What an application is made of."""
    found: Services = app.extensions[EXTENSION]
    return found
