"""The services that views use, created once by `proxy.app` and stored in the Flask application."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flask import Flask, current_app

from ..accounts.service import Accounts
from ..config import Settings
from ..dialogue import Dialogues
from ..gateway import Embedder, Forwarder, Gateway
from ..hosting.host import ModelHost
from ..prompting.dialogue_templates import Layouts
from ..server.stopping import Life
from ..store.live import LiveSessions, MemorySessions
from ..store.responses import ResponseStore
from .aliases import Aliases
from .attached import AttachedDocuments
from .auth import Keys
from .background import Jobs
from .callers import Callers
from .ledger.writer import LedgerWriter
from .mcp_running import RunningCalls
from .observability import Observer
from .ongoing import Ongoing
from .shares import Shares

if TYPE_CHECKING:
    from ..batches.runner import BatchRunner
    from ..knowledge.service import Knowledge
    from ..knowledge.stores import VectorStores
    from ..oidc.service import SignIn  # imports authlib
    from ..store.conversations import ConversationStore
    from ..store.request_batches import RequestBatches

EXTENSION = "slotproxy"


@dataclass(frozen=True, kw_only=True)
class Services:
    settings: Settings
    life: Life
    gateway: Gateway
    keys: Keys
    callers: Callers
    observer: Observer
    started: int
    embedder: Embedder
    ranker: Embedder
    forwarder: Forwarder
    store: ResponseStore  # responses
    response_conversations: ResponseStore  # conversations of the Responses API
    jobs: Jobs
    ongoing: Ongoing
    watchers: Shares  # streams of the status page
    writers: Shares  # answers for the chat page
    sockets: Shares  # WebSockets of /v1/responses
    documents: AttachedDocuments
    layouts: Layouts
    dialogues: Dialogues
    host: ModelHost  # of the models that are started here
    knowledge: Knowledge | None = None  # None if not installed or not configured
    local_embedder: Embedder | None = None  # None without the extra embed, or if it is not wanted
    accounts: Accounts | None = None  # None if the gateway keeps no keys in its store
    sign_in: SignIn | None = None  # None without an OpenID provider
    conversations: ConversationStore | None = None
    ledger: LedgerWriter | None = None  # None if the settings name no place for it
    vector_stores: VectorStores | None = None  # None whenever knowledge is
    batches: RequestBatches | None = None  # None whenever knowledge is
    batch_runner: BatchRunner | None = None  # None whenever batches are
    mcp_calls: RunningCalls = field(default_factory=RunningCalls)
    aliases: Aliases = field(default_factory=Aliases)
    # Sign-in sessions. None if several workers would need a database to share them.
    sessions: LiveSessions | None = field(default_factory=MemorySessions)


def current_services() -> Services:
    """Return the services of the current application."""
    return services_of(current_app)


def services_of(app: Flask) -> Services:
    """Return the services of this application."""
    services: Services = app.extensions[EXTENSION]
    return services
