"""Reads the header of a model file, without the library.

Format (chatglm_cpp's convert.py): "ggml", then little-endian int32: model type, config version and
values. Of these the largest context is the seventh in version 1, and the eleventh in version 2.
"""

from __future__ import annotations

import struct

from msgspec import Struct

from ...errors import BackendDown
from .protocol import Family

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
