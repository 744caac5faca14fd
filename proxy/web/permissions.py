"""Which models and knowledge bases the caller of a request may use. Answers check it themselves, in
the gateway and in dialogues.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..accounts.rights import ALL, Permissions
from ..gateway import Embedder
from .auth import IDENTITY
from .services import Services

if TYPE_CHECKING:
    from ..knowledge.service import Knowledge
    from ..knowledge.stores import VectorStores


def permissions(services: Services, environ: Mapping[str, Any]) -> Permissions:
    """The permissions of the request; its key has been checked."""
    identity = environ.get(IDENTITY)
    if identity is None or not identity.rights:
        return ALL
    return Permissions(identity.rights, services.settings.hide_forbidden)


def check_model(
    services: Services, environ: Mapping[str, Any], name: str, of: Embedder | None = None
) -> None:
    """Raises Forbidden or ModelNotFound if the caller may not use the model that this name means
    to the gateway or an embedder, and NoBackend if there is no model."""
    may = permissions(services, environ)
    if may.rights:
        registry = (of or services.gateway).registry
        model, shown = registry.resolve(name)
        may.check_model(name, shown, model)
        if may.barred_tiers:
            may.check_tiers(shown, {backend.tier.name for backend in registry.pool(model)})


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
    may, found = permissions(services, environ), services.knowledge
    return found.within(may) if found is not None and may.bounds_knowledge else found


def vector_stores(services: Services, environ: Mapping[str, Any]) -> VectorStores | None:
    """The vector stores that the caller may use; None if they are not installed."""
    may, found = permissions(services, environ), services.vector_stores
    return found.within(may) if found is not None and may.bounds_knowledge else found
