"""Checks whether a model can run here, and whether to use the bundled one."""

from __future__ import annotations

import importlib.util
import logging
import socket
from pathlib import Path
from urllib.parse import urlsplit

from ...errors import BackendDown
from .model_file import look

log = logging.getLogger("slotproxy.chatglm")

PATIENCE = 1.0  # seconds to find out whether a server listens


def missing(file: str) -> str:
    """The reason why this model file cannot run, "" if it can."""
    if importlib.util.find_spec("chatglm_cpp") is None:
        return "chatglm_cpp is not installed: pip install 'slotproxy[chatglm]'"
    try:
        look(file)
    except BackendDown as error:
        return error.message
    return ""


def listens(url: str) -> bool:
    """Whether a server listens at this address."""
    address = urlsplit(url)
    try:
        with socket.create_connection((address.hostname, address.port or 80), PATIENCE):
            return True
    except OSError:
        return False


def bundled_instead(file: Path) -> Path | None:
    """The bundled model file, if it can run."""
    if why := missing(str(file)):
        log.info("cannot run the bundled model: %s", why)
        return None
    log.info("serving the bundled ChatGLM model, %s", file.name)
    return file
