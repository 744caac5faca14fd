"""Downloads of models for those who have the right, with their entries in the audit."""

from __future__ import annotations

from typing import Any

from ..downloads.choice import reference
from ..downloads.download import Download
from ..errors import Forbidden
from .services import Services, note


def check(services: Services, key: str) -> None:
    """Raises Forbidden."""
    if not services.keys.is_given(key, "pull"):
        raise Forbidden("this API key may not download or delete models: it lacks the right pull")


def begin(services: Services, key: str, text: str) -> Download:
    """Begin the download of what ``hf:OWNER/REPO[:QUANT]`` names. Raises Forbidden, BadRequest,
    Unsupported, UpstreamFault."""
    check(services, key)
    meant = reference(text)
    download = services.downloads.start(meant)
    note(services, key, "download", "model", meant.repository, {"of": meant.quantization})
    return download


def listed(services: Services, key: str, text: str) -> dict[str, Any]:
    """The models of a repository, their sizes, and whether they fit. Raises like `begin`."""
    check(services, key)
    said, fitting = services.downloads.offers(reference(text))
    models = [
        {"name": model.name, "size": model.size, "fits": not fitting or model.size <= fitting}
        for model in said.models
    ]
    return {"models": models, "context": said.context}


def cancel(services: Services, key: str) -> None:
    """End the download under way, if there is one. Raises Forbidden."""
    check(services, key)
    services.downloads.close()


def delete(services: Services, key: str, name: str) -> None:
    """Unload a model of the folder and delete its files. Raises Forbidden, NotFound."""
    check(services, key)
    model = services.host.find(name)
    services.downloads.delete(name)
    if model is not None:
        model.stop()
    note(services, key, "delete", "model", name, {})
