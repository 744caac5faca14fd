"""Model files: their header, read without the library, and whether they can run here.

Format (chatglm_cpp's convert.py): "ggml", then little-endian int32: model type, config version and
values. Of these the largest context is the seventh in version 1, and the eleventh in version 2.
"""

from __future__ import annotations

import importlib.util
import logging
import socket
import struct
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from ...errors import BackendDown
from .protocol import Family

log = logging.getLogger("slotproxy.chatglm")

PATIENCE = 1.0  # seconds to find out whether a server listens
TYPES: dict[int, Family] = {1: "chatglm", 2: "chatglm2", 3: "chatglm3", 4: "glm-4"}
_HEAD = struct.Struct("<4sii13i")


class ModelFile(Struct, frozen=True):
    family: Family
    n_ctx: int


def look(path: str) -> ModelFile:
    """Read a header. Raises BackendDown, without a folder in its message, for an invalid file."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD.size)
    except OSError as error:
        raise BackendDown(f"the model file cannot be read: {error.strerror}") from None
    if len(head) < _HEAD.size or not head.startswith(b"ggml"):
        raise BackendDown("the file is not a chatglm_cpp model")
    _, kind, version, *values = _HEAD.unpack(head)
    family = TYPES.get(kind)
    if family is None or version not in (1, 2):
        raise BackendDown(f"unsupported model file: type {kind}, version {version}")
    n_ctx = values[6] if version == 1 else values[10]
    if n_ctx <= 0:
        raise BackendDown("the model file does not state a context length")
    return ModelFile(family, n_ctx)


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
