"""What the caller of a request may use and see. For answers, gateway and dialogues check it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from ..accounts.rights import ALL, Permissions
from ..core.request import CompletionRequest
from ..errors import Forbidden, GatewayError, ModelNotFound
from ..gateway import Caller, Embedder, View
from .auth import IDENTITY
from .model_tables import of_model
from .observability import RECORD, Record
from .services import Services

if TYPE_CHECKING:
    from ..knowledge.service import Knowledge
    from ..knowledge.stores import VectorStores

MOST_NAMED = 20  # models in an error


def check_admin(services: Services, key: str) -> None:
    """Raises Forbidden."""
    if not services.keys.is_admin(key):
        raise Forbidden(
            "this requires an admin API key: use one of the setting admins, or ask an administrator"
            " for one"
        )


# What a caller may see of backends and slots: admins see addresses, other callers see aliases.
def shown_names(services: Services, key: str) -> Callable[[str], str]:
    """Return a function that gives a backend's name as shown to this key."""
    if services.keys.is_admin(key):
        return str
    aliases, backends = services.aliases, services.gateway.registry.backends

    def shown(name: str) -> str:
        if name not in aliases.known:
            for backend in backends.values():  # in configuration order
                aliases.name(backend.name, backend.url)
        return aliases.known.get(name) or aliases.name(name, "")

    return shown


def word(services: Services, environ: Mapping[str, Any], key: str, error: GatewayError) -> None:
    """Word an error for the caller: with the names that it may know, of backends and of models."""
    error.show_to(shown_names(services, key))
    if isinstance(error, ModelNotFound) and error.models:
        may = permissions(services, environ)
        names = [name for name in error.models if may.permits_model(name)]
        if alike := _alike(error.name, names):
            error.message += f": did you mean {alike}?"
        elif names:
            more = " …" if len(names) > MOST_NAMED else ""
            error.message += f": use {' or '.join(names[:MOST_NAMED])}{more}"


def _alike(name: str, names: Sequence[str]) -> str:
    """The name that was probably meant, "" for none."""
    typed, lowered = name.lower(), [other.lower() for other in names]
    parts = [k for k in lowered if min(len(typed), len(k)) > 2 and (typed in k or k in typed)]
    near = [typed] if typed in lowered else parts or get_close_matches(typed, lowered)
    return names[lowered.index(near[0])] if near else ""


def view(services: Services, caller: Caller) -> View:
    """Return the scheduler's view as shown to this caller."""
    shown = shown_names(services, caller.key)
    group = None if services.keys.is_admin(caller.key) else caller.group
    seen = services.gateway.scheduler.view(group, caller.key)
    backends, seen.backends = seen.backends, []
    for backend in backends:
        server = services.gateway.registry.backends.get(backend.backend)
        if server is not None and server.is_unread:
            continue
        backend.backend = shown(backend.backend)
        if server is not None and not server.is_loaded:
            backend.slots = []
        for slot in backend.slots:
            if slot.conversation is not None:
                slot.conversation = services.aliases.digest(slot.conversation)
        seen.backends.append(backend)
    return seen


def permissions(services: Services, environ: Mapping[str, Any]) -> Permissions:
    """The permissions of the request; its key has been checked."""
    identity = environ.get(IDENTITY)
    if identity is None or not identity.rights:
        return ALL
    return Permissions(identity.rights)


def check_model(
    services: Services, environ: Mapping[str, Any], name: str, of: Embedder | None = None
) -> None:
    """Raises Forbidden if the caller may not use the model that this name means
    to the gateway or an embedder, and NoBackend if there is no model."""
    may = permissions(services, environ)
    if may.rights:
        registry = (of or services.gateway).registry
        model, shown = registry.resolve(name)
        may.check_model(name, shown, model)
        if may.barred_tiers:
            may.check_tiers(shown, {backend.tier.name for backend in registry.pool(model)})


def of_caller(
    services: Services, environ: MutableMapping[str, Any], request: CompletionRequest
) -> CompletionRequest:
    """The request with the model that it means for its caller, see `BackendPools.meant`, or that
    the rules of a route choose. Raises like `Chooser.choose`."""
    may, gateway = permissions(services, environ), services.gateway
    if may.rights:
        model = gateway.registry.meant(request.model, may.permits_model)
        if model != request.model:
            request = replace(request, model=model)
    if not gateway.registry.rules:
        return request
    record: Record = environ[RECORD]
    # What is only explained or counted does not bind a conversation to its model.
    chosen = gateway.choose(request, record.key, may, remembers=record.asks_model)
    if chosen is not None:
        record.chosen = chosen
        request = replace(request, model=chosen.model)
        request = of_model(services.host, gateway, request)
    return request


def local_model(services: Services, environ: Mapping[str, Any]) -> str:
    """The name of the local embedding model; "" without one, or if the caller may not use it."""
    local = services.local_embedder
    if local is None:
        return ""
    (name,) = local.registry.models()
    may = permissions(services, environ)
    return name if not may.rights or may.permits_model(name, name) else ""


def visible(
    services: Services, environ: Mapping[str, Any], names: Iterable[str]
) -> tuple[str, ...]:
    """Those of the models' names that the caller may use."""
    may, resolve = permissions(services, environ), services.gateway.registry.resolve
    if not may.rights:
        return tuple(names)
    return tuple(name for name in names if may.permits_model(name, resolve(name)[0]))


def knowledge(services: Services, environ: Mapping[str, Any]) -> Knowledge | None:
    """The knowledge bases that the caller may use; None if they are not installed."""
    may, bases = permissions(services, environ), services.knowledge
    return bases.within(may) if bases is not None and may.bounds_knowledge else bases


def vector_stores(services: Services, environ: Mapping[str, Any]) -> VectorStores | None:
    """The vector stores that the caller may use; None if they are not installed."""
    may, stores = permissions(services, environ), services.vector_stores
    return stores.within(may) if stores is not None and may.bounds_knowledge else stores
