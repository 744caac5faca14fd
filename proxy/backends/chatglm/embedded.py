"""Whether a model can be run here, and whether the bundled one is to be."""

from __future__ import annotations

import importlib.util
import logging
import socket
from pathlib import Path
from urllib.parse import urlsplit

from ...errors import BackendDown
from .model_file import look

log = logging.getLogger("slotproxy.chatglm")

PATIENCE = 1.0  # seconds to see whether a server listens


def missing(file: str) -> str:
    """What keeps this file from being run; "" for nothing."""
    if importlib.util.find_spec("chatglm_cpp") is None:
        return "chatglm_cpp is not installed: pip install 'slotproxy[chatglm]'"
    try:
        look(file)
    except BackendDown as error:
        return error.message
    return ""


def listens(url: str) -> bool:
    """Whether anybody is at this address."""
    address = urlsplit(url)
    try:
        with socket.create_connection((address.hostname, address.port or 80), PATIENCE):
            return True
    except OSError:
        return False


def bundled_instead(file: Path) -> Path | None:
    """The bundled model, when it can be run."""
    if why := missing(str(file)):
        log.info("the bundled model cannot be run: %s", why)
        return None
    log.info("serving the bundled ChatGLM model, %s", file.name)
    return file
