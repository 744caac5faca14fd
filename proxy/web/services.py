"""The services that views use, created once by `proxy.app` and stored in the Flask application."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from hashlib import blake2s
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flask import Flask, current_app
from msgspec import Struct, field

from ..config import Settings
from ..dialogue.run import Dialogues
from ..downloads.download import Downloads
from ..errors import StoreUnavailable
from ..gateway import Embedder, Forwarder, Gateway
from ..hosting.host import ModelHost
from ..observe.captures import Captures
from ..observe.ring import Requests
from ..prompting.template.dialogues import Layouts
from ..runtime.life import Life
from ..runtime.locks import native_lock
from ..store.accounts import Accounts
from ..store.live import MemorySessions
from .attached import AttachedDocuments
from .auth import Keys
from .background import Jobs
from .callers import Callers
from .ledger.writer import LedgerWriter
from .observability import Observer
from .ongoing import FairCap, Ongoing, RunningCalls

if TYPE_CHECKING:
    from ..batches.batch_run import BatchRunner
    from ..knowledge.service import Knowledge
    from ..knowledge.stores import VectorStores
    from ..oidc.service import SignIn  # imports authlib
    from ..store.conversations import ConversationStore
    from ..store.database_responses import ResponseStore
    from ..store.request_batches import RequestBatches
    from ..store.sessions import LiveSessions


# Aliases that hide backend addresses and conversation digests from ordinary callers.
#
# A backend without a configured name is named after its host and port, so it is shown as
# `backend-1`, `backend-2`, … Conversation digests are salted, so that nobody can test whether a
# slot holds a guessed text.
DIGITS = 12  # hex digits shown


class Aliases:
    """Derives the salt from `secrets`, which all workers that share a table know and clients do
    not, so that all workers show the same digests. Without secrets, each process uses a random
    salt."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        shared = "\0".join(secrets)
        self._salt = blake2s(shared.encode()).digest() if shared else os.urandom(32)
        self.known: dict[str, str] = {}  # the names shown for backends
        self._lock = native_lock()

    def digest(self, conversation: str) -> str:
        made = blake2s(conversation.encode(), key=self._salt, person=b"slots")
        return made.hexdigest()[:DIGITS]

    def name(self, name: str, address: str) -> str:
        """Return the name shown for a backend; `address` is "" if the backend no longer exists."""
        with self._lock:
            shown = self.known.get(name)
            if shown is None:
                host = urlsplit(address).netloc
                named = bool(address) and (not host or host not in name)
                numbered = sum(alias.startswith("backend-") for alias in self.known.values())
                shown = self.known[name] = name if named else f"backend-{numbered + 1}"
            return shown


EXTENSION = "slotproxy"


class Services(Struct, frozen=True, kw_only=True):
    settings: Settings
    life: Life
    gateway: Gateway
    keys: Keys
    callers: Callers
    observer: Observer
    requests: Requests
    started: int
    embedder: Embedder
    ranker: Embedder
    forwarder: Forwarder
    store: ResponseStore  # responses, and conversations of the Responses API
    jobs: Jobs
    ongoing: Ongoing
    watchers: FairCap  # streams of the status page
    writers: FairCap  # answers for the chat page
    sockets: FairCap  # WebSockets of /v1/responses
    documents: AttachedDocuments
    layouts: Layouts
    dialogues: Dialogues
    host: ModelHost  # of the models that are started here
    downloads: Downloads
    knowledge: Knowledge | None = None  # None if not installed or not configured
    local_embedder: Embedder | None = None  # None without the extra embed, or if it is not wanted
    accounts: Accounts | None = None  # None if the gateway keeps no keys in its store
    sign_in: SignIn | None = None  # None without an OpenID provider
    captures: Captures | None = None  # None if nothing can be captured
    conversations: ConversationStore | None = None
    ledger: LedgerWriter | None = None  # None if the settings name no place for it
    vector_stores: VectorStores | None = None  # None whenever knowledge is
    batches: RequestBatches | None = None  # None whenever knowledge is
    batch_runner: BatchRunner | None = None  # None whenever batches are
    mcp_calls: RunningCalls = field(default_factory=RunningCalls)
    aliases: Aliases = field(default_factory=Aliases)
    # Sign-in sessions. None if several workers would need a database to share them.
    sessions: LiveSessions | None = field(default_factory=MemorySessions)


def note(
    services: Services, actor: str, action: str, kind: str, name: str, details: Mapping[str, Any]
) -> None:
    """Write what was done with a request or model into the audit. Without one, the log has the
    call."""
    if services.accounts is not None:
        with suppress(StoreUnavailable), services.accounts.keys.changing(actor) as changes:
            changes.record(action, kind, name, details)


def current_services() -> Services:
    return services_of(current_app)


def services_of(app: Flask) -> Services:
    services: Services = app.extensions[EXTENSION]
    return services
